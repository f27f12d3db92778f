"""Which step each task takes next. Pure: manifests, runs, the fleet and time come in, changes go out.

pending -> authorised -> assigned -> running -> checking -> succeeded | failed | timed_out | cancelled | rejected
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from reconciler.core.backoff import backoff_s
from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.fleet import AgentView, InstanceView
from reconciler.core.quantity import show_duration
from reconciler.kinds.kind import LOOK_S, Desired, Facts
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.child import CHECK, check_id, check_run, escalation_id, escalation_run
from reconciler.kinds.task.delegation import as_delegate, is_answered, weigh, why_abandoned
from reconciler.kinds.task.routing import candidates, why_nobody, why_nobody_is_free
from reconciler.kinds.task.schedule import plan_schedules
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import CANCEL_REQUESTED, ENDED, FINAL, FOR_GOOD, TaskState, TaskStates, load_of
from reconciler.kinds.task.step import TaskWork, cause_of, recorded_spec, task_change
from reconciler.settings import Retry
from reconciler.store.records import DELEGATION, GitRunRecord, TaskRecord

TIMEOUT_SLACK_S = 10.0
IN_FLIGHT = (TaskState.ASSIGNED, TaskState.RUNNING)
OPERATOR, TO_AGENT = "operator", "agent "
"""Whom `escalated` names: a person, or how it begins where an agent is told."""

_Free: TypeAlias = tuple[int, str, AgentView, InstanceView]


def plan(desired: Desired, observed: TaskStates, facts: Facts) -> Sequence[Change]:
    """Changes by priority, then age, of the runs that were read; KEEP for tasks of git that are finished.

    Where more runs wait for the same, the last of them says how many.
    """
    manifests: Mapping[str, Manifest[TaskSpec]] = desired.of("task")
    out: list[Change] = []
    ran = {(r.name, r.spec_digest) for r in observed.in_git}
    ran |= {(r.name, r.spec_digest) for r in observed.runs if _is_git(r)}
    for name, manifest in sorted(manifests.items()):
        if (name, manifest.digest) not in ran and manifest.spec.schedule is None:
            out.append(task_change(name, Action.CREATE, "new in git", manifest.digest, TaskWork(manifest=manifest)))
    out.extend(plan_schedules(desired, observed, facts))
    planner = _Planner(desired, observed, facts)
    for run in sorted(observed.runs, key=lambda r: (-r.priority, r.created_at, r.run)):
        if (state := observed.unended.get(run.run)) is not None:
            out.append(planner.put_back(run, state))
        elif run.state not in FINAL:
            out.append(_with_more(planner.step(run), observed.more.get(run.run)))
        elif (change := planner.look_back(run)) is not None:
            out.append(change)
    out.extend(planner.of_git(observed.in_git))
    return out


def _is_git(run: TaskRecord) -> bool:
    return run.source == "git"


def _with_more(change: Change, more: str | None) -> Change:
    return replace(change, reason=f"{change.reason}; {more}") if more else change


class _Planner:
    """One planning of all runs; what it hands out counts against the limits at once."""

    def __init__(self, desired: Desired, observed: TaskStates, facts: Facts) -> None:
        self._hub = desired.hub
        self._manifests: Mapping[str, Manifest[TaskSpec]] = desired.of("task")
        self._facts = facts
        self._epoch = facts.router.epoch if facts.router is not None else ""
        observed = _as_attempted(observed)
        self._by_run = {r.run: r for r in (*observed.around, *observed.runs)}
        self._read = {r.run for r in observed.runs}
        self._latest = observed.latest()
        self._listening = observed.listening
        self._without_result = observed.without_result
        load = load_of(observed.runs)
        self._busy = dict(load.by_instance)
        self._total = load.total
        self._queued = Counter(load.by_agent) + Counter(observed.unread)

    def step(self, run: TaskRecord) -> Change:
        if why := self._unwanted(run):
            return self._withdraw(run, why)
        spec = recorded_spec(run.manifest)
        if run.state == TaskState.CHECKING:
            return self._check(run, spec)
        if not self._facts.is_fleet_known:
            return self._as(run, Action.HOLD, f"{run.state}; the agents cannot be read now", TaskWork(run=run))
        match run.state:
            case TaskState.PENDING if run.purpose == DELEGATION:
                return self._delegate(run, spec)
            case TaskState.PENDING:
                return self._authorise(run, spec, self._candidates(run, spec))
            case TaskState.AUTHORISED:
                return self._dispatch(run, spec)
            case _:
                return self._watch(run, spec)

    def of_git(self, runs: Iterable[GitRunRecord]) -> Iterator[Change]:
        """What there is to say of runs of git that were read in short only."""
        for run in runs:
            if run.run in self._read:
                continue
            why = self._unwanted(run)
            if why and run.state not in FINAL:
                yield self._cancel(run.record, why)
            elif not why and run.state in FINAL:
                yield task_change(run.name, Action.KEEP, f"finished: {run.state}", run.spec_digest, TaskWork())

    def put_back(self, run: TaskRecord, state: TaskState) -> Change:
        """Somebody wrote its end into the record; it goes on from where its attempts say that it is."""
        reason = f"recorded as {run.state}, but nothing ended it; by its attempts it is {state}"
        change = self._as(run, Action.UPDATE, reason, TaskWork(run=run, state=state), Cause.DRIFT)
        return replace(change, fields=(FieldChange(path="state", before=run.state, after=str(state)),))

    def look_back(self, run: TaskRecord) -> Change | None:
        """What there is to say of a finished run; nothing of one that nobody wants any more."""
        if why := self._unwanted(run):
            is_open = run.escalated == OPERATOR
            return self._as(run, Action.UPDATE, f"{why}: no person is needed", TaskWork(run=run)) if is_open else None
        if run.run in self._without_result:
            reason = "recorded as succeeded, but no result of it was ever received; retry it"
            return task_change(run.name, Action.HOLD, reason, run.spec_digest, TaskWork(run=run), Cause.DRIFT)
        if run.escalated.startswith(TO_AGENT) and escalation_id(run) not in self._by_run:
            agent = run.escalated.removeprefix(TO_AGENT)
            told = escalation_run(run, recorded_spec(run.manifest), agent)
            return self._make(told, f"{run.name} came to no good end, and {agent} is told")
        if run.purpose == DELEGATION:
            return self._answer(run)
        if run.purpose or run.schedule:
            return None
        return task_change(run.name, Action.KEEP, f"finished: {run.state}", run.spec_digest, TaskWork(run=run))

    def _unwanted(self, run: TaskRecord | GitRunRecord) -> str:
        """Why nobody wants a run any more; empty where it is wanted."""
        if isinstance(run, TaskRecord) and run.purpose:
            return self._abandoned(run)
        if isinstance(run, TaskRecord) and not _is_git(run):
            return ""
        manifest = self._manifests.get(run.schedule or run.name)
        if manifest is None:
            return "its manifest was removed from git"
        if run.schedule:
            return "" if manifest.spec.schedule is not None else "its schedule was removed from git"
        return "" if manifest.digest == run.spec_digest else "its manifest was changed in git"

    def _abandoned(self, run: TaskRecord) -> str:
        """The same for what the hub made for another run."""
        parent = self._by_run.get(run.parent)
        if parent is None:
            return "the run that it was made for is gone"
        if run.purpose == CHECK and (parent.state != TaskState.CHECKING or check_id(parent, run.step) != run.run):
            return f"{parent.name} is {parent.state}, and waits for it no more"
        return why_abandoned(run, parent) if run.purpose == DELEGATION else ""

    def _withdraw(self, run: TaskRecord, why: str) -> Change:
        change = self._cancel(run, why)
        is_removal = change.action is Action.CANCEL and run.state in IN_FLIGHT and why.endswith("removed from git")
        return replace(change, towards=Action.REMOVE) if is_removal else change

    def _authorise(
        self,
        run: TaskRecord,
        spec: TaskSpec,
        agents: Sequence[AgentView],
        *,
        is_final: bool = True,
        is_fallback: bool = False,
    ) -> Change:
        """Policy is asked about one agent: one that has instances, with the least to do for each of them.

        A denial rejects the run when it `is_final`; else it goes on waiting for the agent that it has.
        """
        agent = min(agents, key=self._load_of, default=None)
        if agent is None:
            reason = self._nobody(spec)
            return self._as(
                run, Action.COMPLETE, reason, TaskWork(run=run, spec=spec, state=TaskState.REJECTED, reason=reason)
            )
        self._queued[agent.name] += 1
        denied = TaskState.REJECTED if is_final else None
        work = TaskWork(run=run, spec=spec, agent=agent, state=denied, is_fallback=is_fallback)
        why = FOR_GOOD if run.reason.startswith(FOR_GOOD) else "had all its attempts"
        after = f", since {run.agent} {why}" if is_fallback else ""
        return self._as(run, Action.AUTHORISE, f"asking policy about {agent.name}{after}", work)

    def _delegate(self, run: TaskRecord, spec: TaskSpec) -> Change:
        """What a run asked another agent for is authorised with no more than both may, or rejected."""
        grant = weigh(run, self._by_run, self._facts.fleet, self._hub.sensitivity.exposures)
        if isinstance(grant, str):
            work = TaskWork(run=run, spec=spec, state=TaskState.REJECTED, reason=grant)
            return self._as(run, Action.COMPLETE, grant, work)
        work = TaskWork(
            run=grant.run, spec=spec, agent=grant.agent, state=TaskState.REJECTED, delegation=grant.question
        )
        return self._as(run, Action.AUTHORISE, f"asking policy about {grant.agent.name}", work)

    def _answer(self, run: TaskRecord) -> Change | None:
        """Who asked for it is told of its end; once more after a router that had the answer in memory is gone."""
        router = self._facts.router
        if router is None or is_answered(run, router.epoch):
            return None
        return self._as(run, Action.UPDATE, "who asked for it is told of its end", TaskWork(run=run, answers=True))

    def _load_of(self, agent: AgentView) -> tuple[bool, float, float, str]:
        count = len(agent.instances)
        return not count, self._queued.get(agent.name, 0) / max(1, count), -agent.trust, agent.name

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
        is_hopeless = run.attempts > run.spent and run.reason.startswith(FOR_GOOD)
        if is_hopeless or run.attempts - run.spent >= retry.max_attempts:
            return self._give_up(run, spec, retry.max_attempts)
        if blocked := self._blocked(run, spec):
            return blocked
        wait = run.not_before_boot - self._facts.boottime
        if run.boot_id == self._facts.boot_id and wait > 0:
            return self._as(
                run, Action.HOLD, f"next attempt in {show_duration(wait)}: {run.reason}", TaskWork(run=run), wait_s=wait
            )
        return self._assign(run, spec)

    def _give_up(self, run: TaskRecord, spec: TaskSpec, most: int) -> Change:
        """No attempt is left with its agent: another one may take it, else it has failed."""
        tried = (*run.tried.split(), run.agent)
        if self._hub.orchestrator.fallback_on_error and spec.agent is None:
            others = [a for a in self._candidates(run, spec) if a.name not in tried]
            if others and self._facts.is_fleet_known:
                return self._authorise(run, spec, others, is_final=False, is_fallback=True)
        before = f", after {', '.join(run.tried.split())}" if run.tried else ""
        reason = f"{run.reason} (attempt {run.attempts - run.spent} of {most}{before})"
        state = TaskState.TIMED_OUT if run.reason.startswith("timed out") else TaskState.FAILED
        return self._as(
            run, Action.COMPLETE, f"no attempts left: {run.reason}", TaskWork(run=run, state=state, reason=reason)
        )

    def _blocked(self, run: TaskRecord, spec: TaskSpec) -> Change | None:
        """What it depends on has not succeeded, or never will."""
        for name in spec.depends_on:
            parent = self._latest.get(name)
            wanted = self._manifests.get(name)
            is_replaced = parent is not None and wanted is not None and self._unwanted(parent)
            if parent is None or is_replaced or parent.state not in FINAL:
                return self._as(run, Action.HOLD, f"waiting for {name}", TaskWork(run=run))
            if parent.state != TaskState.SUCCEEDED:
                reason = f"it depends on {name}, which {ENDED[parent.state]}"
                work = TaskWork(run=run, state=TaskState.CANCELLED, reason=reason)
                return self._as(run, Action.COMPLETE, reason, work)
        return None

    def _assign(self, run: TaskRecord, spec: TaskSpec) -> Change:
        if self._total >= self._hub.orchestrator.max_parallel_tasks and run.purpose != DELEGATION:
            reason = f"the fleet runs {self._total} tasks already (maxParallelTasks)"
            return self._as(run, Action.HOLD, reason, TaskWork(run=run))
        agents = self._candidates(run, spec)
        if not agents and run.purpose == DELEGATION:
            work = TaskWork(run=run, state=TaskState.FAILED, reason=self._nobody(spec))
            return self._as(run, Action.COMPLETE, work.reason, work)
        if not agents:
            return self._as(run, Action.HOLD, self._nobody(spec), TaskWork(run=run))
        own = [a for a in agents if a.name == run.agent]
        if not own:
            return self._authorise(run, spec, agents)
        free = self._placed(run, self._free(own), own[0])
        if not free and not any(i.ready for i in own[0].instances) and (able := [a for a in agents if self._free([a])]):
            return self._authorise(run, spec, able, is_final=False)
        if not free:
            return self._as(run, Action.HOLD, why_nobody_is_free(own), TaskWork(run=run))
        _, name, agent, instance = min(free, key=lambda f: f[:2])
        self._busy[name] = self._busy.get(name, 0) + 1
        self._total += 1
        parents = {n: self._latest[n].run for n in spec.depends_on}
        work = TaskWork(run=run, spec=spec, agent=agent, instance=instance, parents=parents, epoch=self._epoch)
        return self._as(run, Action.DISPATCH, f"to {name}", work)

    def _placed(self, run: TaskRecord, free: Sequence[_Free], agent: AgentView) -> Sequence[_Free]:
        """A command that checks a result goes to the instance where that was made, as long as there is one."""
        made_by = self._by_run[run.parent].instance if run.purpose == CHECK and run.agent == agent.name else ""
        if any(i.name == made_by for i in agent.instances):
            return [f for f in free if f[1] == made_by]
        return free

    def _free(self, agents: Sequence[AgentView]) -> list[_Free]:
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
        agent = self._agent_of(run)
        instance = next((i for i in agent.instances if i.name == run.instance), None) if agent else None
        if instance is None:
            return self._as(run, Action.HOLD, f"assigned on {run.instance}, which leaves the fleet", TaskWork(run=run))
        parents = {n: self._latest[n].run for n in spec.depends_on if n in self._latest}
        work = TaskWork(run=run, spec=spec, agent=agent, instance=instance, parents=parents, epoch=self._epoch)
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

    def _check(self, run: TaskRecord, spec: TaskSpec) -> Change:
        """The next check of a result, or what follows from all of them."""
        verdicts = json.loads(run.checks)
        refused = [v for v in verdicts if not v["accept"]]
        if len(verdicts) == len(spec.checks) and not refused:
            return self._as(run, Action.COMPLETE, "accepted", TaskWork(run=run, state=TaskState.SUCCEEDED))
        if len(verdicts) == len(spec.checks):
            text = "; ".join(f"{v['check']}: {v['reason']}" for v in refused)
            return self._as(run, Action.RETRY, f"not accepted: {text}", TaskWork(run=run, remedy=text))
        check = spec.checks[len(verdicts)]
        work = TaskWork(run=run, spec=spec)
        if check.is_by_hub:
            return self._as(run, Action.CHECK, check.shown, work)
        if refused:
            return self._as(
                run, Action.CHECK, f"{check.shown}: not asked for, since {refused[0]['check']} failed", work
            )
        child = self._by_run.get(check_id(run, len(verdicts)))
        if child is None:
            return self._make(check_run(run, spec, len(verdicts)), f"{check.shown}, for {run.name}")
        if child.state not in FINAL:
            reason = f"waiting for {check.shown}: {child.name} is {child.state}"
            return self._as(run, Action.HOLD, reason, TaskWork(run=run))
        return self._as(run, Action.CHECK, check.shown, replace(work, child=child))

    def _make(self, new: TaskRecord, reason: str) -> Change:
        """A run of the hub's own."""
        return self._as(new, Action.CREATE, reason, TaskWork(new=(new,)))

    def _candidates(self, run: TaskRecord, spec: TaskSpec) -> list[AgentView]:
        found = candidates(spec, self._facts.fleet, self._hub.sensitivity.exposures)
        if run.purpose == DELEGATION:
            return [as_delegate(a, run) for a in found if a.name == run.agent]
        return found

    def _agent_of(self, run: TaskRecord) -> AgentView | None:
        agent = self._facts.fleet.get(run.agent)
        return as_delegate(agent, run) if agent is not None and run.purpose == DELEGATION else agent

    def _nobody(self, spec: TaskSpec) -> str:
        return why_nobody(spec, self._facts.fleet, self._hub.sensitivity.exposures)

    def _as(
        self,
        run: TaskRecord,
        action: Action,
        reason: str,
        work: TaskWork,
        cause: Cause | None = None,
        wait_s: float | None = None,
    ) -> Change:
        return task_change(run.name, action, reason, run.spec_digest, work, cause or cause_of(run), wait_s)


def _as_attempted(observed: TaskStates) -> TaskStates:
    """With every run as far as it is by its attempts, whatever was written by hand."""
    if not observed.unended:
        return observed
    runs, around = (
        tuple(replace(r, state=observed.unended.get(r.run, r.state)) for r in some)
        for some in (observed.runs, observed.around)
    )
    return replace(observed, runs=runs, around=around)


def retry_wait_s(retry: Retry, run: str, attempts: int) -> float:
    """Seconds until the next attempt, after `attempts` of them failed. The jitter follows from run and attempt."""
    if retry.strategy == "fixed":
        return retry.base_delay
    jitter = hashlib.sha256(f"{run} {attempts}".encode()).digest()[0] / 256 if retry.jitter else 1.0
    return backoff_s(attempts, base_s=retry.base_delay, cap_s=600.0, jitter=jitter)
