"""Cross references and limits of agents: who may be written to, which images, how much of the host."""

from collections.abc import Mapping, Sequence

from reconciler.core.problem import Problem
from reconciler.core.quantity import show_duration, show_size
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Manifest
from reconciler.settings import OperatorSpec, permits_image


def check(desired: Desired, operator: OperatorSpec) -> Sequence[Problem]:
    """Problems of all agents of a revision."""
    agents: Mapping[str, Manifest[AgentSpec]] = desired.of("agent")
    out: list[Problem] = []
    for manifest in agents.values():
        if "agent" not in desired.broken:
            out.extend(_references(manifest, agents))
        out.extend(_limits(manifest, desired, operator))
    count = sum(m.spec.replicas for m in agents.values())
    if count > operator.maxima.agents:
        first = next(iter(agents.values()))
        out.append(first.problem(f"the fleet has {count} instances; the operator allows {operator.maxima.agents}"))
    names: dict[str, Manifest[AgentSpec]] = {}
    for manifest in agents.values():
        for ordinal in range(manifest.spec.replicas):
            other = names.setdefault(f"{manifest.name}-{ordinal}", manifest)
            if other is not manifest:
                out.append(manifest.problem(f"instance {manifest.name}-{ordinal} is also an instance of {other.name}"))
    return out


def contribute(desired: Desired) -> Mapping[str, object]:
    """The section `agents` of the router's configuration."""
    return {"agents": {name: _route(m) for name, m in sorted(desired.of("agent").items())}}


def _route(manifest: Manifest[AgentSpec]) -> Mapping[str, object]:
    spec = manifest.spec
    sends = [
        {k: v for k, v in (("to", s.to), ("topic", s.topic), ("types", list(s.types))) if v}
        for s in spec.messaging.sends
    ]
    return {
        "labels": dict(manifest.labels),
        "role": spec.role,
        "version": spec.version,
        "capabilities": list(spec.capabilities),
        "sends": sends,
        "subscribes": [{"topic": s.topic, "delivery": s.delivery} for s in spec.messaging.subscribes],
    }


def _references(manifest: Manifest[AgentSpec], agents: Mapping[str, Manifest[AgentSpec]]) -> Sequence[Problem]:
    return [
        manifest.problem(
            f"messaging.sends names agent {send.to!r}, which is not defined; agents are: {', '.join(sorted(agents))}"
        )
        for send in manifest.spec.messaging.sends
        if send.to is not None and send.to not in agents
    ]


def _limits(manifest: Manifest[AgentSpec], desired: Desired, operator: OperatorSpec) -> Sequence[Problem]:
    spec, maxima = manifest.spec, operator.maxima
    out: list[Problem] = []
    for whose, patterns in (
        ("hub.yaml (runtime.images)", desired.hub.runtime.images),
        ("the operator", operator.runtime.image_allow),
    ):
        if not permits_image(patterns, spec.image):
            out.append(manifest.problem(f"image {spec.image!r} is not allowed by {whose}: {', '.join(patterns)}"))
    resources = spec.resources
    if resources.cpus > maxima.cpus:
        out.append(manifest.problem(f"resources.cpus is {resources.cpus:g}; the operator allows {maxima.cpus:g}"))
    if resources.memory > maxima.memory:
        asked, allowed = show_size(resources.memory), show_size(maxima.memory)
        out.append(manifest.problem(f"resources.memory is {asked}; the operator allows {allowed}"))
    if spec.lifecycle.ttl > maxima.ttl:
        asked, allowed = show_duration(spec.lifecycle.ttl), show_duration(maxima.ttl)
        out.append(manifest.problem(f"lifecycle.ttl is {asked}; the operator allows {allowed}"))
    return out
