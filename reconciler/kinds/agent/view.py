"""The fleet as other kinds may know it: what each agent can do, and which of its instances are ready. Pure."""

from collections.abc import Iterator, Mapping

from reconciler.core.fleet import AgentView, InstanceView
from reconciler.core.names import instance_name
from reconciler.core.quantity import show_duration
from reconciler.core.routing import exposure_of
from reconciler.kinds.agent.delegate import may_delegate
from reconciler.kinds.agent.demand import is_asleep, is_used
from reconciler.kinds.agent.rollout import in_force
from reconciler.kinds.agent.secrets import without
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.kind import GAP_S, Desired, Facts
from reconciler.kinds.manifest import Manifest
from reconciler.ports import InstanceReport
from reconciler.settings import HubSpec


def view(desired: Desired, observed: AgentStates, facts: Facts) -> Mapping[str, AgentView]:
    """The desired agents with the readiness of their instances, for routing tasks. Each is made when asked for."""
    return _Views(desired, observed, facts)


def silent_s(report: InstanceReport, facts: Facts) -> float:
    """Seconds since the instance called, or since the router started where it has not called since then."""
    uptime_s = facts.router.uptime_s if facts.router is not None else 0.0
    return min(facts.boottime - report.last_seen, uptime_s) if report.last_seen else uptime_s


def why_silent(report: InstanceReport, spec: AgentSpec, facts: Facts) -> str:
    """What is to be said of an instance that missed as many heartbeats as it may; empty while it did not."""
    silence = silent_s(report, facts)
    if silence <= spec.health.heartbeat * spec.health.missed:
        return ""
    if not report.last_seen:
        return "it has not called since the router started"
    return f"no heartbeat for {show_duration(round(silence))}"


def silence_limit_s(spec: AgentSpec, lease_s: float) -> float:
    """How long it may be silent: the lease, at least three times what it takes not to be ready any more."""
    return max(lease_s, 3 * spec.health.heartbeat * spec.health.missed, 2 * GAP_S)


class _Views(Mapping[str, AgentView]):
    """Most passes ask for few of the agents, or for none."""

    def __init__(self, desired: Desired, observed: AgentStates, facts: Facts) -> None:
        self._manifests: Mapping[str, Manifest[AgentSpec]] = desired.of("agent")
        self._hub, self._observed, self._facts = desired.hub, observed, facts
        self._made: dict[str, AgentView] = {}

    def __getitem__(self, name: str) -> AgentView:
        if name not in self._made:
            self._made[name] = _agent_view(self._manifests[name], self._hub, self._observed, self._facts)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifests)

    def __len__(self) -> int:
        return len(self._manifests)


def _agent_view(manifest: Manifest[AgentSpec], hub: HubSpec, observed: AgentStates, facts: Facts) -> AgentView:
    name, replicas = manifest.name, manifest.spec.replicas
    states = [observed.instances.get(instance_name(name, i)) for i in range(replicas)]
    if any(s is not None and s.record is not None and s.record.rejected for s in states):
        manifest = in_force(manifest, "", [s for s in states if s is not None]).manifest
    spec = manifest.spec
    return AgentView(
        name=name,
        role=spec.role,
        labels=manifest.labels,
        capabilities=spec.capabilities,
        max_parallel=spec.tasks.max_parallel,
        sandboxed=facts.sandboxed,
        grace_s=spec.lifecycle.grace,
        trust=facts.trust.get(name, hub.orchestrator.trust.neutral),
        exposure=exposure_of(spec.llm, hub.providers, hub.sensitivity.exposures, executor=spec.executor.type),
        workspace=_workspace(spec),
        replicas=replicas,
        instances=tuple(
            _instance_view(name, states[i], i, spec, facts)
            for i in range(len(states))
            if spec.mode == "persistent" or _has_or_gets_a_task(states[i], facts)
        ),
        delegates=tuple(
            _instance_view(name, observed.instances.get(instance), d.ordinal, spec, facts)
            for instance, d in facts.delegated.items()
            if d.agent == name
        ),
        cpus=spec.resources.cpus,
        delegation=may_delegate(spec),
    )


def _has_or_gets_a_task(state: InstanceState | None, facts: Facts) -> bool:
    """Of a per-task agent only these count: the others are about to go, or not there yet."""
    if state is None or state.record is None:
        return False
    return bool(facts.busy.get(state.name)) or not is_used(state)


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
    if is_asleep(state):
        return "it sleeps, and is started for what waits"
    if state.container is None or state.container.state != "running":
        return f"its container is {state.container.state if state.container else 'missing'}"
    if state.record.phase != Phase.EXECUTING:
        return state.record.reason or f"it is {state.record.phase}"
    if spec.mode == "per-task" and is_used(state):
        return "it has its one task"
    if why := without(state.secrets):
        return why
    if state.report is None:
        return "the router does not know it yet"
    return why_silent(state.report, spec, facts)
