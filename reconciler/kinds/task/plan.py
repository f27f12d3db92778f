"""Which step each task takes next. Pure: manifests, runs, the fleet and time come in, changes go out.

pending -> authorised -> assigned -> running -> succeeded | failed | timed_out | cancelled | rejected
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from reconciler.core.backoff import backoff_s
from reconciler.core.change import Action, Cause, Change
from reconciler.core.fleet import AgentView, InstanceView
from reconciler.core.quantity import NORMALISED, show_duration
from reconciler.kinds.kind import LOOK_S, Desired, Facts
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import CANCEL_REQUESTED, FINAL, TaskState, TaskStates, load_of
from reconciler.settings import HubSpec, Retry
from reconciler.store.records import TaskRecord

TIMEOUT_SLACK_S = 10.0
IN_FLIGHT = (TaskState.ASSIGNED, TaskState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWork:
    """What applying needs: the run as it was when planning, and what was decided about it."""

    run: TaskRecord | None = None
    manifest: Manifest[TaskSpec] | None = None
    spec: TaskSpec | None = None
    agent: AgentView | None = None
    instance: InstanceView | None = None
    state: TaskState | None = None
    reason: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)


def plan(desired: Desired, observed: TaskStates, facts: Facts) -> Sequence[Change]:
    """Changes by priority, then age; one per task that is not finished, KEEP for those that are."""
    manifests: Mapping[str, Manifest[TaskSpec]] = desired.of("task")
    out: list[Change] = []
    ran = {(r.name, r.spec_digest) for r in observed.runs if r.source == "git"}
    for name, manifest in sorted(manifests.items()):
        if (name, manifest.digest) not in ran:
            out.append(_change(name, Action.CREATE, "new in git", manifest.digest, TaskWork(manifest=manifest)))
    planner = _Planner(desired.hub, observed, facts)
    for run in sorted(observed.runs, key=lambda r: (-r.priority, r.created_at, r.run)):
        wanted = manifests.get(run.name)
        is_wanted = run.source != "git" or (wanted is not None and wanted.digest == run.spec_digest)
        if run.state not in FINAL:
            out.append(planner.step(run) if is_wanted else planner.withdraw(run, replaced=wanted is not None))
        elif is_wanted or run.source != "git":
            out.append(_finished(run, observed))
    return out


@lru_cache(maxsize=16384)
def recorded_spec(manifest: str) -> TaskSpec:
    """The spec of a recorded run."""
    return TaskSpec.model_validate(json.loads(manifest)["spec"], context=NORMALISED)


def _finished(run: TaskRecord, observed: TaskStates) -> Change:
    if run.run in observed.without_result:
        reason = "recorded as succeeded, but no result of it was ever received; retry it"
        return _change(run.name, Action.HOLD, reason, run.spec_digest, TaskWork(run=run), Cause.DRIFT)
    return _change(run.name, Action.KEEP, f"finished: {run.state}", run.spec_digest, TaskWork(run=run))


class _Planner:
    """One planning of all runs; what it hands out counts against the limits at once."""

    def __init__(self, hub: HubSpec, observed: TaskStates, facts: Facts) -> None:
        self._hub = hub
        self._facts = facts
        self._latest = observed.latest()
        self._listening = observed.listening
        load = load_of(observed.runs)
        self._busy = dict(load.by_instance)
        self._total = load.total
        self._queued = load.by_agent

    def step(self, run: TaskRecord) -> Change:
        spec = recorded_spec(run.manifest)
        if not self._facts.is_fleet_known:
            return self._as(run, Action.HOLD, f"{run.state}; the agents cannot be read now", TaskWork(run=run))
        match run.state:
            case TaskState.PENDING:
                return self._authorise(run, spec, self._candidates(spec))
            case TaskState.AUTHORISED:
                return self._dispatch(run, spec)
            case _:
                return self._watch(run, spec)

    def withdraw(self, run: TaskRecord, *, replaced: bool) -> Change:
        """The manifest of a run that is not finished went away or became another one."""
        why = "its manifest was changed in git" if replaced else "its manifest was removed from git"
        change = self._cancel(run, why)
        is_removal = change.action is Action.CANCEL and not replaced and run.state in IN_FLIGHT
        return replace(change, towards=Action.REMOVE) if is_removal else change

    def _authorise(
        self, run: TaskRecord, spec: TaskSpec, agents: Sequence[AgentView], *, is_final: bool = True
    ) -> Change:
        """Policy is asked about one agent: one that has instances, with the least to do for each of them.

        A denial rejects the run when it `is_final`; else it goes on waiting for the agent that it has.
        """
        agent = min(agents, key=self._load_of, default=None)
        if agent is not None:
            self._queued[agent.name] = self._queued.get(agent.name, 0) + 1
        about = f" about {agent.name}" if agent is not None else ""
        denied = TaskState.REJECTED if is_final else None
        work = TaskWork(run=run, spec=spec, agent=agent, state=denied)
        return self._as(run, Action.AUTHORISE, f"asking policy{about}", work)

    def _load_of(self, agent: AgentView) -> tuple[bool, float, str]:
        count = len(agent.instances)
        return not count, self._queued.get(agent.name, 0) / max(1, count), agent.name

    def _cancel(self, run: TaskRecord, why: str) -> Change:
        if run.state in IN_FLIGHT and run.reason.startswith(CANCEL_REQUESTED):
            if stuck := self._lost(run) or self._overdue(run, recorded_spec(run.manifest)):
                return stuck
            if self._facts.router is not None and run.sent_epoch != self._facts.router.epoch:
                return self._as(run, Action.CANCEL, why, TaskWork(run=run, reason=why))
            return self._as(run, Action.HOLD, "waiting for its agent to stop it", TaskWork(run=run), wait_s=1.0)
        return self._as(run, Action.CANCEL, why, TaskWork(run=run, reason=why))

    def _dispatch(self, run: TaskRecord, spec: TaskSpec) -> Change:
        retry = spec.retries or self._hub.orchestrator.retry
        if run.attempts >= retry.max_attempts:
            reason = f"{run.reason} (attempt {run.attempts} of {retry.max_attempts})"
            state = TaskState.TIMED_OUT if run.reason.startswith("timed out") else TaskState.FAILED
            return self._as(
                run, Action.COMPLETE, f"no attempts left: {run.reason}", TaskWork(run=run, state=state, reason=reason)
            )
        if blocked := self._blocked(run, spec):
            return blocked
        wait = run.not_before_boot - self._facts.boottime
        if run.boot_id == self._facts.boot_id and wait > 0:
            return self._as(
                run, Action.HOLD, f"next attempt in {show_duration(wait)}: {run.reason}", TaskWork(run=run), wait_s=wait
            )
        return self._assign(run, spec)

    def _blocked(self, run: TaskRecord, spec: TaskSpec) -> Change | None:
        for name in spec.depends_on:
            parent = self._latest.get(name)
            if parent is not None and parent.state in FINAL - {TaskState.SUCCEEDED}:
                reason = f"it depends on {name}, which {parent.state.replace('_', ' ')}"
                return self._as(run, Action.COMPLETE, reason, TaskWork(run=run, state=TaskState.FAILED, reason=reason))
            if parent is None or parent.state != TaskState.SUCCEEDED:
                return self._as(run, Action.HOLD, f"waiting for {name}", TaskWork(run=run))
        return None

    def _assign(self, run: TaskRecord, spec: TaskSpec) -> Change:
        if self._total >= self._hub.orchestrator.max_parallel_tasks:
            reason = f"the fleet runs {self._total} tasks already (maxParallelTasks)"
            return self._as(run, Action.HOLD, reason, TaskWork(run=run))
        agents = self._candidates(spec)
        if not agents:
            return self._as(run, Action.HOLD, _nobody(spec), TaskWork(run=run))
        own = [a for a in agents if a.name == run.agent]
        if not own:
            return self._authorise(run, spec, agents)
        free = self._free(own)
        if not free and not any(i.ready for i in own[0].instances) and (able := [a for a in agents if self._free([a])]):
            return self._authorise(run, spec, able, is_final=False)
        if not free:
            return self._as(run, Action.HOLD, _why_nobody_is_free(own), TaskWork(run=run))
        _, name, agent, instance = min(free, key=lambda f: f[:2])
        self._busy[name] = self._busy.get(name, 0) + 1
        self._total += 1
        parents = {n: self._latest[n].run for n in spec.depends_on}
        work = TaskWork(run=run, spec=spec, agent=agent, instance=instance, parents=parents)
        return self._as(run, Action.DISPATCH, f"to {name}", work)

    def _free(self, agents: Sequence[AgentView]) -> list[tuple[int, str, AgentView, InstanceView]]:
        """Ready instances that may take one more run, with what they do already."""
        return [
            (self._busy.get(i.name, 0), i.name, agent, i)
            for agent in agents
            for i in agent.instances
            if i.ready and self._busy.get(i.name, 0) < agent.max_parallel
        ]

    def _watch(self, run: TaskRecord, spec: TaskSpec) -> Change:
        if run.reason.startswith(CANCEL_REQUESTED):
            return self._cancel(run, run.reason)
        if stuck := self._lost(run) or self._overdue(run, spec):
            return stuck
        router = self._facts.router
        if run.state == TaskState.ASSIGNED and router is not None and run.sent_epoch != router.epoch:
            return self._resend(run, spec)
        on = f"{run.state} on {run.instance}" + (f": {run.progress}" if run.progress else "")
        silent = self._silent_s(run)
        if silent > self._hub.router.lease:
            on = f"{on}, which has not called for {show_duration(round(silent))}"
            return self._as(run, Action.HOLD, on, TaskWork(run=run), wait_s=LOOK_S)
        return self._as(run, Action.HOLD, on, TaskWork(run=run))

    def _overdue(self, run: TaskRecord, spec: TaskSpec) -> Change | None:
        """An agent ends what takes too long by itself; where it does not, or never began, its container is ended."""
        since = self._facts.boottime - run.assigned_boot
        ttl = self._hub.router.ttl
        if run.state == TaskState.RUNNING and since > spec.timeout + TIMEOUT_SLACK_S:
            reason = f"timed out after {show_duration(spec.timeout)}, and its agent did not stop it"
        elif run.state == TaskState.ASSIGNED and since > ttl + TIMEOUT_SLACK_S:
            reason = f"timed out: {run.instance} did not begin it within {show_duration(ttl)}"
        else:
            return None
        return self._as(run, Action.TIME_OUT, reason, TaskWork(run=run, spec=spec, reason=reason))

    def _resend(self, run: TaskRecord, spec: TaskSpec) -> Change:
        agent = self._facts.fleet.get(run.agent)
        instance = next((i for i in agent.instances if i.name == run.instance), None) if agent else None
        if instance is None:
            return self._as(run, Action.HOLD, f"assigned on {run.instance}, which leaves the fleet", TaskWork(run=run))
        parents = {n: self._latest[n].run for n in spec.depends_on if n in self._latest}
        work = TaskWork(run=run, spec=spec, agent=agent, instance=instance, parents=parents)
        return self._as(run, Action.DISPATCH, f"sent again to {run.instance} (generation {run.generation})", work)

    def _lost(self, run: TaskRecord) -> Change | None:
        """The lease: an instance that has not called for so long is made sure to be dead, then the run goes on.

        Only where it could call: the router has listened to it for all of a lease.
        """
        facts, lease = self._facts, self._hub.router.lease
        if facts.router is None:
            return None
        if run.boot_id != facts.boot_id:
            reason = "the machine was started again"
        elif (silent := self._silent_s(run)) > lease and self._listening.seconds(run.instance) > lease:
            reason = f"{run.instance} has not called for {show_duration(round(silent))} (lease {show_duration(lease)})"
        else:
            return None
        return self._as(run, Action.RETRY, reason, TaskWork(run=run, reason=reason), Cause.CRASH)

    def _silent_s(self, run: TaskRecord) -> float:
        """Seconds since its instance called, counted from the assignment and from the start of the router at most."""
        facts = self._facts
        if facts.router is None:
            return 0.0
        report = facts.router.instances.get(run.instance)
        called = report.last_seen if report is not None else 0.0
        return min(facts.boottime - max(run.assigned_boot, called), facts.router.uptime_s)

    def _candidates(self, spec: TaskSpec) -> list[AgentView]:
        fleet = self._facts.fleet
        if spec.agent is not None:
            return [fleet[spec.agent]] if spec.agent in fleet else []
        select = spec.select
        return [
            a
            for _, a in sorted(fleet.items())
            if a.has(spec.requires)
            and (
                select is None
                or (
                    (select.role is None or a.role == select.role)
                    and all(a.labels.get(k) == v for k, v in select.labels.items())
                )
            )
        ]

    def _as(
        self,
        run: TaskRecord,
        action: Action,
        reason: str,
        work: TaskWork,
        cause: Cause | None = None,
        wait_s: float | None = None,
    ) -> Change:
        default = {"git": Cause.COMMIT, "inbox": Cause.INBOX}.get(run.source, Cause.OPERATOR)
        return _change(run.name, action, reason, run.spec_digest, work, cause or default, wait_s)


def retry_wait_s(retry: Retry, attempts: int, jitter: float) -> float:
    """Seconds until the next attempt, after `attempts` of them failed."""
    if retry.strategy == "fixed":
        return retry.base_delay
    return backoff_s(attempts, base_s=retry.base_delay, cap_s=600.0, jitter=jitter if retry.jitter else 1.0)


def _nobody(spec: TaskSpec) -> str:
    if spec.agent is not None:
        return f"agent {spec.agent} is not in the fleet"
    return f"no agent has {', '.join(spec.requires)}"


def _why_nobody_is_free(agents: Sequence[AgentView]) -> str:
    instances = [i for a in agents for i in a.instances]
    if not instances:
        return f"{agents[0].name} has no instances (replicas: 0)"
    waiting = next((i for i in instances if not i.ready), None)
    if any(i.ready for i in instances) or waiting is None:
        return f"all instances of {', '.join(a.name for a in agents)} are busy"
    return f"{waiting.name} is not ready: {waiting.reason}"


def _change(
    name: str,
    action: Action,
    reason: str,
    digest: str,
    work: TaskWork,
    cause: Cause = Cause.COMMIT,
    wait_s: float | None = None,
) -> Change:
    return Change(
        kind="task", name=name, action=action, cause=cause, reason=reason, spec_digest=digest, spec=work, wait_s=wait_s
    )
