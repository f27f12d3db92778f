"""The fleet as other kinds may know it: what each agent can do, and which of its instances are ready. Pure."""

from collections.abc import Iterator, Mapping

from reconciler.core.fleet import AgentView, InstanceView
from reconciler.core.names import instance_name
from reconciler.core.quantity import show_duration
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.manifest import Manifest


def view(desired: Desired, observed: AgentStates, facts: Facts) -> Mapping[str, AgentView]:
    """The desired agents with the readiness of their instances, for routing tasks. Each is made when asked for."""
    return _Views(desired.of("agent"), observed, facts)


class _Views(Mapping[str, AgentView]):
    """Most passes ask for few of the agents, or for none."""

    def __init__(self, manifests: Mapping[str, Manifest[AgentSpec]], observed: AgentStates, facts: Facts) -> None:
        self._manifests, self._observed, self._facts = manifests, observed, facts
        self._made: dict[str, AgentView] = {}

    def __getitem__(self, name: str) -> AgentView:
        if name not in self._made:
            self._made[name] = _agent_view(self._manifests[name], self._observed, self._facts)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifests)

    def __len__(self) -> int:
        return len(self._manifests)


def _agent_view(manifest: Manifest[AgentSpec], observed: AgentStates, facts: Facts) -> AgentView:
    name, spec = manifest.name, manifest.spec
    return AgentView(
        name=name,
        role=spec.role,
        labels=manifest.labels,
        capabilities=spec.capabilities,
        max_parallel=spec.tasks.max_parallel,
        sandboxed=facts.sandboxed,
        grace_s=spec.lifecycle.grace,
        workspace=_workspace(spec),
        instances=tuple(
            _instance_view(name, observed.instances.get(instance_name(name, i)), i, spec, facts)
            for i in range(spec.replicas)
        ),
    )


def _workspace(spec: AgentSpec) -> str:
    if spec.workspace.source != "repository":
        return spec.workspace.source if spec.workspace.source == "none" else "own"
    if spec.workspace.writable:
        return "own"
    return "full" if spec.workspace.history else "tree"


def _instance_view(
    agent: str, state: InstanceState | None, ordinal: int, spec: AgentSpec, facts: Facts
) -> InstanceView:
    reason = _why_not_ready(state, spec, facts)
    return InstanceView(
        name=instance_name(agent, ordinal),
        agent=agent,
        ready=not reason,
        reason=reason,
        container_id=state.container.id if state and state.container else "",
        last_seen=state.report.last_seen if state and state.report else 0.0,
    )


def _why_not_ready(state: InstanceState | None, spec: AgentSpec, facts: Facts) -> str:
    if state is None or state.record is None:
        return "not created yet"
    if state.container is None or state.container.state != "running":
        return f"its container is {state.container.state if state.container else 'missing'}"
    if state.record.phase != Phase.EXECUTING:
        return state.record.reason or f"it is {state.record.phase}"
    if state.report is None:
        return "the router does not know it yet"
    silent = facts.boottime - state.report.last_seen
    limit = spec.health.heartbeat * spec.health.missed
    if state.report.last_seen and silent > limit:
        return f"no heartbeat for {show_duration(silent)}"
    if not state.report.last_seen and facts.router and facts.router.uptime_s > limit:
        return "it has not called since the router started"
    return ""
