"""Which agents may have a task, and why none may. Pure: a task's spec and the fleet come in."""

from collections.abc import Collection, Mapping, Sequence

from reconciler.core.exposure import PRIVATE_ONLY, permits
from reconciler.core.fleet import AgentView, Fleet
from reconciler.kinds.task.spec import TaskSpec

Exposures = Mapping[str, Collection[str]]
"""Where work of each sensitivity may go, as the hub's settings say."""


def candidates(spec: TaskSpec, fleet: Fleet, exposures: Exposures) -> list[AgentView]:
    """Agents that can do it and that its sensitivity lets have it, whatever policy says."""
    return [a for a in _able(spec, fleet) if not _barred(spec, a, exposures)]


def why_nobody(spec: TaskSpec, fleet: Fleet, exposures: Exposures) -> str:
    """Why there are no candidates."""
    barred = next((b for a in _able(spec, fleet) if (b := _barred(spec, a, exposures))), "")
    if barred or spec.agent is None:
        return barred or f"no agent has {', '.join(spec.requires)}"
    return f"agent {spec.agent} is not in the fleet"


def why_nobody_is_free(agents: Sequence[AgentView]) -> str:
    """Why no instance of these agents, of which there is one at least, takes a run now."""
    instances = [i for a in agents for i in a.instances]
    if growing := next((a for a in agents if len(a.instances) < a.replicas), None):
        return f"an instance of {growing.name} is made for it"
    if not instances:
        return f"{agents[0].name} has no instances (replicas: 0)"
    waiting = next((i for i in instances if not i.ready), None)
    if any(i.ready for i in instances) or waiting is None:
        return f"all instances of {', '.join(a.name for a in agents)} are busy"
    return f"{waiting.name} is not ready: {waiting.reason}"


def _able(spec: TaskSpec, fleet: Fleet) -> list[AgentView]:
    if spec.agent is not None:
        return [fleet[spec.agent]] if spec.agent in fleet else []
    return [a for _, a in sorted(fleet.items()) if a.has(spec.requires) and _is_selected(spec, a)]


def _is_selected(spec: TaskSpec, agent: AgentView) -> bool:
    select = spec.select
    if select is None:
        return True
    is_role = select.role is None or agent.role == select.role
    return is_role and all(agent.labels.get(k) == v for k, v in select.labels.items())


def _barred(spec: TaskSpec, agent: AgentView, exposures: Exposures) -> str:
    """Why work of this sensitivity never goes to an agent; empty where it may."""
    if agent.exposure != "none" and not permits(exposures, spec.sensitivity, agent.exposure):
        return f"{spec.sensitivity} work may not reach {agent.name}, whose model is {agent.exposure}"
    if spec.sensitivity in PRIVATE_ONLY and not agent.sandboxed:
        return f"{spec.sensitivity} work needs an enforced sandbox, which {agent.name} has not"
    return ""
