"""Cross references and limits of agents: who may be written to, which images, how much of the host.

A fleet has many agents and few faults, so each rule is one pass over all of them that looks for offenders.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from reconciler.core.model import Model
from reconciler.core.problem import Problem
from reconciler.core.quantity import show_duration, show_size
from reconciler.kinds.agent.spec import AgentSpec, Lifecycle, Quota, Resources
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Manifest, problem_at, validation_problems
from reconciler.kinds.route_entry import Part, show_rate
from reconciler.settings import AgentPlane, HubSpec, Maxima, OperatorSpec, permits_image


def check(desired: Desired, operator: OperatorSpec) -> Sequence[Problem]:
    """Problems of all agents of a revision."""
    agents: Mapping[str, Manifest[AgentSpec]] = desired.of("agent")
    return [
        *(_references(agents) if "agent" not in desired.broken else ()),
        *_images(agents.values(), "hub.yaml (runtime.images)", desired.hub.runtime.images),
        *_images(agents.values(), "the operator", operator.runtime.image_allow),
        *_sizes(agents.values(), operator.maxima),
        *_models(agents.values(), operator.agent_plane),
    ]


class Defaults(Model):
    """`spec.defaults` of `hub.yaml`: what goes under each agent, by the rules of an agent's `spec`."""

    resources: Resources = Resources()
    lifecycle: Lifecycle = Lifecycle()
    sandbox: Literal["strict"] = "strict"


def check_defaults(file: str, content: bytes, hub: HubSpec, operator: OperatorSpec) -> Sequence[Problem]:
    """Problems of the defaults for agents at their places in the hub's file, whether or not an agent uses them."""
    under = ("spec", "defaults")
    try:
        defaults = Defaults.model_validate(hub.defaults)
    except ValidationError as exc:
        return validation_problems(file, content, 0, exc, under=under, model=Defaults)
    written: Mapping[str, Any] = defaults.written()
    return [
        problem_at(file, content, 0, (*under, *path), f"defaults.{message}")
        for path, message in _excess(defaults.resources, defaults.lifecycle, operator.maxima)
        if path[1] in written.get(path[0], {})
    ]


def contribute(desired: Desired) -> Mapping[str, object]:
    """The section `agents` of the router's configuration."""
    return {"agents": {name: m.once(_route) for name, m in sorted(desired.of("agent").items())}}


def _route(manifest: Manifest[AgentSpec]) -> Part:
    spec = manifest.spec
    quota = spec.messaging.quota or Quota()
    sends = [
        {k: v for k, v in (("to", s.to), ("topic", s.topic), ("types", list(s.types))) if v}
        for s in spec.messaging.sends
    ]
    return Part(
        {
            "labels": dict(manifest.labels),
            "role": spec.role,
            "version": spec.version,
            "capabilities": list(spec.capabilities),
            "sends": sends,
            "subscribes": [{"topic": s.topic, "delivery": s.delivery} for s in spec.messaging.subscribes],
            "quota": show_rate(quota.messages, quota.bytes),
            "quota_by_type": {name: show_rate(rate.messages, rate.bytes) for name, rate in quota.per_type.items()},
            "klp": spec.messaging.klp.public_key,
        }
    )


def _references(agents: Mapping[str, Manifest[AgentSpec]]) -> Iterator[Problem]:
    for manifest in agents.values():
        for index, send in enumerate(manifest.spec.messaging.sends):
            if send.to is not None and send.to not in agents:
                known = ", ".join(sorted(agents))
                yield manifest.problem(
                    f"messaging.sends names agent {send.to!r}, which is not defined; agents are: {known}",
                    *("messaging", "sends", index, "to"),
                )
        for index, name in enumerate(manifest.spec.delegation.to):
            if name not in agents:
                known = ", ".join(sorted(agents))
                yield manifest.problem(
                    f"delegation.to names agent {name!r}, which is not defined; agents are: {known}",
                    *("delegation", "to", index),
                )


def _images(agents: Collection[Manifest[AgentSpec]], whose: str, patterns: tuple[str, ...]) -> Iterator[Problem]:
    refused = {i for i in {m.spec.image for m in agents} if not permits_image(patterns, i)}
    for manifest in agents:
        if (image := manifest.spec.image) in refused:
            yield manifest.problem(f"image {image!r} is not allowed by {whose}: {', '.join(patterns)}", "image")


def _models(agents: Collection[Manifest[AgentSpec]], plane: AgentPlane) -> Iterator[Problem]:
    for manifest in agents:
        if manifest.spec.llm is not None and plane.address_of(manifest.name):
            yield manifest.problem(
                "llm asks for models, which are at a socket; the operator's agentPlane.agents leaves this agent none",
                "llm",
            )


def _sizes(agents: Collection[Manifest[AgentSpec]], maxima: Maxima) -> Iterator[Problem]:
    first, count = None, 0
    for manifest in agents:
        spec = manifest.spec
        first, count = first or manifest, count + spec.replicas
        for path, message in _excess(spec.resources, spec.lifecycle, maxima):
            yield manifest.problem(message, *path)
    if first is not None and count > maxima.agents:
        yield first.problem(f"the fleet has {count} instances; the operator allows {maxima.agents}")


def _excess(resources: Resources, lifecycle: Lifecycle, maxima: Maxima) -> list[tuple[tuple[str, str], str]]:
    """Where more is asked than the operator allows: path below `spec`, and a sentence."""
    out: list[tuple[tuple[str, str], str]] = []
    if resources.cpus > maxima.cpus:
        message = f"resources.cpus is {resources.cpus:g}; the operator allows {maxima.cpus:g}"
        out.append((("resources", "cpus"), message))
    if resources.memory > maxima.memory:
        asked, allowed = show_size(resources.memory), show_size(maxima.memory)
        out.append((("resources", "memory"), f"resources.memory is {asked}; the operator allows {allowed}"))
    if lifecycle.ttl > maxima.ttl:
        asked, allowed = show_duration(lifecycle.ttl), show_duration(maxima.ttl)
        out.append((("lifecycle", "ttl"), f"lifecycle.ttl is {asked}; the operator allows {allowed}"))
    return out
