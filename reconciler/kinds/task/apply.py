"""Taking a run one step further. Decides nothing; a run that changed since planning is left for the next pass."""

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from reconciler.core.change import Action, Change
from reconciler.core.decision import Decision
from reconciler.core.outcome import Applied, Failed, Outcome, Skipped
from reconciler.core.reading import Ok
from reconciler.crashpoint import effect
from reconciler.kinds.egress_entry import digest_providers, write_entry
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.outgoing import read_outgoing
from reconciler.kinds.task.artefacts import read_artefact
from reconciler.kinds.task.delegation import mark_answered, write_answer
from reconciler.kinds.task.escalation import ACKNOWLEDGED
from reconciler.kinds.task.judge import judge
from reconciler.kinds.task.payload import Told, write_assignment
from reconciler.kinds.task.plan import OPERATOR, TO_AGENT, retry_wait_s
from reconciler.kinds.task.question import show_minute, write_question
from reconciler.kinds.task.schedule import schemas_of
from reconciler.kinds.task.spec import Check, TaskSpec
from reconciler.kinds.task.state import CANCEL_REQUESTED, TaskState
from reconciler.kinds.task.step import TaskWork, recorded_spec
from reconciler.kinds.task.verdict import Verdict, read_verdict
from reconciler.kinds.workspace import provide_workspace, workspace_path
from reconciler.store import attempts, queue, records
from reconciler.store.records import DELEGATION, TaskRecord
from reconciler.store.store import Store

FENCE_GRACE_S = 2.0
JOINED = 25
"""So many runs go one step together at most."""
_CHANGED = "it changed meanwhile; the next pass looks again"


def apply(change: Change, world: World, desired: Desired) -> Outcome:
    """Carry out one change. Raises ReconcilerError where the surroundings broke."""
    work: TaskWork = change.spec
    if work.manifest is not None:
        record = new_run(work.manifest, desired, source="git", now=world.clock.now())
        effect("task.create.record", records.put_tasks, world.store, [record])
        return Applied(note=f"run {record.run}")
    if work.new or work.schedule is not None or work.ended:
        effect("task.create.record", _make, work, world)
        return Applied()
    run = _needed(work.run)
    current = records.task(world.store, run.run)
    if current is None or _place(current) != _place(run):
        return Skipped(reason=_CHANGED)
    if not run.manifest:
        run = current
    match change.action:
        case Action.AUTHORISE:
            return _authorise(run, work, world)
        case Action.DISPATCH:
            return _dispatch(run, work, world, desired)
        case Action.COMPLETE:
            return _complete(run, _needed(work.state), work.reason, world)
        case Action.CANCEL:
            return _cancel(run, work.reason, world)
        case Action.UPDATE if work.answers:
            return _answer(run, world)
        case Action.UPDATE if work.state is not None:
            put_back = replace(run, state=work.state, finished_at="")
            effect("task.restore.record", records.put_tasks, world.store, [put_back])
            return Applied()
        case Action.UPDATE:
            settled = replace(run, escalated=ACKNOWLEDGED)
            effect("task.acknowledge.record", records.put_tasks, world.store, [settled])
            return Applied()
        case Action.CHECK:
            return _check(run, work, world)
        case Action.RETRY if work.remedy:
            return _refuse(run, work.remedy, world)
        case Action.RETRY:
            return _retry(run, work, world)
        case Action.TIME_OUT:
            return _time_out(run, work, world, desired)
        case _:
            return Failed(reason=f"a task cannot be asked to {change.action}", retryable=False)


def new_run(
    manifest: Manifest[TaskSpec], desired: Desired, *, source: str, now: datetime, uid: int = 0, key: str = ""
) -> TaskRecord:
    """A pending run of a manifest under a new run id."""
    return TaskRecord(
        run=secrets.token_hex(6),
        name=manifest.name,
        spec_digest=manifest.digest,
        manifest=json.dumps(manifest.written, sort_keys=True),
        source=source,
        uid=uid,
        key=key,
        revision=desired.revision.id,
        state=TaskState.PENDING,
        priority=manifest.spec.priority,
        created_at=now.isoformat(),
        schemas=schemas_of(manifest, desired),
    )


def _make(work: TaskWork, world: World) -> None:
    """Runs that are not there yet, and what a schedule has seen to: together, so that none is forgotten or doubled."""
    with world.store.transaction():
        records.put_tasks(world.store, [r for r in work.new if records.task(world.store, r.run) is None])
        if work.schedule is not None:
            records.put_schedule(world.store, work.schedule)
        if work.ended:
            records.delete_schedule(world.store, work.ended)


def _place(run: TaskRecord) -> tuple[object, ...]:
    """How far a run is."""
    return run.state, run.generation, run.checks


def _authorise(run: TaskRecord, work: TaskWork, world: World) -> Outcome:
    if work.delegation is not None and (full := _is_full(world)):
        return _complete(run, TaskState.REJECTED, full, world)
    decision = _decide(run, work, world)
    if not decision.allow:
        return _deny(run, work, decision, world)
    effect("task.authorise.record", records.put_tasks, world.store, [_allowed(run, work, decision)])
    return Applied(note=f"allowed by {decision.engine}")


def _deny(run: TaskRecord, work: TaskWork, decision: Decision, world: World) -> Outcome:
    agent, reason = _needed(work.agent), "; ".join(decision.reasons)
    if work.is_fallback:
        passed_over = replace(run, tried=f"{run.tried} {agent.name}".strip())
        effect("task.authorise.record", records.put_tasks, world.store, [passed_over])
        return Applied(note=f"policy ({decision.engine}) does not allow {agent.name}: {reason}")
    if work.state is None:
        return Skipped(reason=f"policy ({decision.engine}) does not allow {agent.name}: {reason}")
    rejected = replace(run, policy_revision=decision.revision)
    return _complete(rejected, TaskState.REJECTED, f"policy ({decision.engine}) said no: {reason}", world)


def _allowed(run: TaskRecord, work: TaskWork, decision: Decision) -> TaskRecord:
    allowed = replace(
        run,
        state=TaskState.AUTHORISED,
        agent=_needed(work.agent).name,
        policy_revision=decision.revision,
        reason=run.reason if run.attempts else "",
    )
    if work.is_fallback:
        return replace(allowed, tried=f"{run.tried} {run.agent}".strip(), spent=run.attempts)
    return allowed


def _is_full(world: World) -> str:
    """Why no instance can be added for a delegated run; empty where one can."""
    count = len(records.instances(world.store).keys() | attempts.delegated(world.store).keys())
    most = world.operator.maxima.agents
    return f"the fleet has {count} instances; the operator allows {most}" if count >= most else ""


def _decide(run: TaskRecord, work: TaskWork, world: World) -> Decision:
    """What policy says: of the delegation, where it is one, and then of the task."""
    if work.delegation is not None:
        decision = world.policy.decide("delegation", {**work.delegation, "time": show_minute(world.clock.now())})
        if not decision.allow:
            return decision
    return world.policy.decide("task", _question(run, work, world))


def _question(run: TaskRecord, work: TaskWork, world: World) -> Mapping[str, Any]:
    return write_question(
        _needed(work.spec),
        _needed(work.agent),
        name=run.name,
        labels=json.loads(run.manifest).get("labels", {}),
        source=run.source,
        uid=run.uid if run.source != "git" else None,
        revision=run.revision,
        now=world.clock.now(),
    )


def _dispatch(run: TaskRecord, work: TaskWork, world: World, desired: Desired) -> Outcome:
    spec, agent = _needed(work.spec), work.agent
    if not work.epoch:
        return Failed(reason="the router does not answer", transient=True)
    if agent is None or work.instance is None:
        return Failed(reason="its instance went away meanwhile; the next pass looks again", transient=True)
    if run.state == TaskState.AUTHORISED:
        run = _begun(run, work, world)
        effect("task.dispatch.record", _assign, world, run, work.instance.container_id)
    if agent.workspace in ("full", "tree"):
        effect("task.dispatch.workspace", provide_workspace, world, run.revision, agent.workspace == "full")
    if agent.exposure != "none":
        effect("task.dispatch.egress", _tell_egress, world, desired, work.instance.name)
    message = _assignment(run, spec, work, world, desired)
    effect("task.dispatch.send", world.router.send, message)
    # Of a router that began meanwhile the next pass knows another epoch, and sends it again.
    effect("task.dispatch.sent", _mark_sent, world, replace(run, sent_epoch=work.epoch))
    return Applied(note=f"generation {run.generation}")


def _begun(run: TaskRecord, work: TaskWork, world: World) -> TaskRecord:
    return replace(
        run,
        state=TaskState.ASSIGNED,
        agent=_needed(work.agent).name,
        instance=_needed(work.instance).name,
        generation=run.generation + 1,
        attempts=run.attempts + 1,
        sent_epoch="",
        boot_id=world.clock.boot_id(),
        assigned_boot=world.clock.boottime(),
        reason="",
        progress="",
    )


def _tell_egress(world: World, desired: Desired, instance: str) -> None:
    """The way out must know how sensitive the work is before the agent does. Raises EgressError."""
    for name, outgoing in read_outgoing(world.store, instance).items():
        world.egress.put_instance(name, write_entry(outgoing, desired.hub, digest_providers(desired.hub)))


def _mark_sent(world: World, *sent: TaskRecord) -> None:
    """Note the epoch, unless a report of the agent's overtook us, or somebody who wants the run cancelled."""
    with world.store.transaction():
        found = {r.run: r for r in queue.by_run(world.store, [s.run for s in sent])}
        known = [(found[s.run], s) for s in sent if s.run in found]
        noted = [
            replace(current, sent_epoch=s.sent_epoch)
            for current, s in known
            if (current.generation, current.reason) == (s.generation, s.reason)
        ]
        records.put_tasks(world.store, noted)


def _assign(world: World, run: TaskRecord, container_id: str) -> None:
    with world.store.transaction():
        records.put_tasks(world.store, [run])
        attempts.begin_attempt(world.store, run, container_id, world.clock.now())


def _assignment(run: TaskRecord, spec: TaskSpec, work: TaskWork, world: World, desired: Desired) -> dict[str, Any]:
    subject = run.parent if run.purpose != DELEGATION else ""
    found = records.results(world.store, [*work.parents.values(), run.run, subject])
    told = Told(
        parents={name: found.get(parent) for name, parent in work.parents.items()},
        before=found.get(run.run),
        subject=records.task(world.store, subject) if subject else None,
        subject_result=found.get(subject),
        read_artefact=lambda digest: read_artefact(world.state, digest),
        workspace=workspace_path(world, run.instance, run.revision, _needed(work.agent).workspace),
        lease_s=desired.hub.router.lease,
    )
    return write_assignment(run, spec, told)


def _complete(run: TaskRecord, state: TaskState, reason: str, world: World) -> Outcome:
    now = world.clock.now()
    done = replace(run, state=state, reason=reason, finished_at=now.isoformat(), escalated=_escalation(run, state))
    with world.store.transaction():
        if run.state == TaskState.CHECKING:
            attempts.end_attempt(world.store, run, state, reason, now)
        effect("task.complete.record", records.put_tasks, world.store, [done])
    return Applied(note=f"{reason}; escalated to {done.escalated}" if done.escalated else reason)


def _escalation(run: TaskRecord, state: TaskState) -> str:
    """To whom the end of a run goes."""
    escalate = recorded_spec(run.manifest).escalate
    if escalate is None or state not in (TaskState.FAILED, TaskState.TIMED_OUT, TaskState.REJECTED):
        return ""
    return f"{TO_AGENT}{escalate.agent}" if escalate.agent is not None else OPERATOR


def _answer(run: TaskRecord, world: World) -> Outcome:
    """What became of a delegated run goes to who asked for it."""
    report = world.router.report()
    if not isinstance(report, Ok):
        return Failed(reason="the router does not answer", transient=True)
    answer = write_answer(run, records.results(world.store, [run.run]).get(run.run))
    effect("task.answer.send", world.router.send, answer)
    answered = mark_answered(run, report.value.epoch)
    effect("task.answer.record", records.put_tasks, world.store, [answered])
    return Applied(note=f"to {answer['instance']}")


def _check(run: TaskRecord, work: TaskWork, world: World) -> Outcome:
    """The next verdict on the result is recorded."""
    verdicts = json.loads(run.checks)
    check = _needed(work.spec).checks[len(verdicts)]
    verdict = _verdict(run, check, work, world)
    checked = replace(run, checks=json.dumps([*verdicts, verdict.to_json()]))
    effect("task.check.record", records.put_tasks, world.store, [checked])
    return Applied(note=f"{verdict.check}: {'accepted' if verdict.accept else verdict.reason}")


def _verdict(run: TaskRecord, check: Check, work: TaskWork, world: World) -> Verdict:
    found = records.results(world.store, [run.run, *([work.child.run] if work.child else [])])
    if work.child is not None:
        return read_verdict(check, work.child, found.get(work.child.run))
    if not check.is_by_hub:
        return Verdict(check=check.shown, accept=False, reason="not asked for, since an earlier check failed")
    result = json.loads(found[run.run].result) if run.run in found else None
    schema = json.loads(run.schemas).get(check.schema_)
    if check.schema_ is not None and schema is None:
        return Verdict(check=check.shown, accept=False, reason="the schema was not recorded with the run")
    (wrong,) = judge(result, [{"schema": schema} if check.schema_ is not None else {"regex": check.regex}])
    return Verdict(check=check.shown, accept=not wrong, reason=wrong)


def _refuse(run: TaskRecord, remedy: str, world: World) -> Outcome:
    """The result is not accepted: the run may be tried again, and is told why."""
    reason = f"not accepted: {remedy}"
    now = world.clock.now()
    with world.store.transaction():
        attempts.end_attempt(world.store, run, "not_accepted", reason, now)
        again = replace(
            run, state=TaskState.AUTHORISED, reason=reason, remedy=remedy, checks="[]", instance="", sent_epoch=""
        )
        effect("task.refuse.record", records.put_tasks, world.store, [replace(again, not_before_boot=0.0)])
    return Applied()


def _cancel(run: TaskRecord, reason: str, world: World) -> Outcome:
    if run.state not in (TaskState.ASSIGNED, TaskState.RUNNING):
        return _complete(run, TaskState.CANCELLED, reason, world)
    why = f"{CANCEL_REQUESTED}: {reason.removeprefix(f'{CANCEL_REQUESTED}: ')}"
    asked = replace(run, reason=why, sent_epoch="")
    effect("task.cancel.record", records.put_tasks, world.store, [asked])
    report = world.router.report()
    if not isinstance(report, Ok):
        return Failed(reason="the router does not answer", transient=True)
    order = {"task": run.name, "run": run.run, "generation": run.generation}
    message = {"id": f"{run.run}-{run.generation}-cancel", "type": "task.cancel", "pattern": "event", "payload": order}
    effect("task.cancel.send", world.router.send, {"instance": run.instance, "message": message})
    world.router.set_cancels(run.instance, open_cancels(world.store, run.instance))
    effect("task.cancel.sent", _mark_sent, world, replace(asked, sent_epoch=report.value.epoch))
    return Applied(note=f"asked {run.instance} to stop it")


def open_cancels(store: Store, instance: str) -> list[dict[str, Any]]:
    """Everything that an instance is asked to stop, for the answers to its heartbeats."""
    return [
        {"task": t.name, "run": t.run, "generation": t.generation}
        for t in attempts.in_flight(store, instance)
        if t.reason.startswith(CANCEL_REQUESTED)
    ]


def _fence(run: TaskRecord, world: World) -> None:
    """Nothing of the old execution may live when the run is assigned again: its container is confirmed dead."""
    for attempt in records.attempts(world.store, run.run):
        if not attempt.ended_at and attempt.container_id:
            effect("task.fence.stop", world.runtime.stop, attempt.container_id, FENCE_GRACE_S)


def _retry(run: TaskRecord, work: TaskWork, world: World) -> Outcome:
    _fence(run, world)
    effect("task.retry.record", attempts.lose, world.store, run.instance, work.reason, world.clock.now())
    return Applied()


def _time_out(run: TaskRecord, work: TaskWork, world: World, desired: Desired) -> Outcome:
    _fence(run, world)
    retry = _needed(work.spec).retries or desired.hub.orchestrator.retry
    wait = retry_wait_s(retry, run.run, run.attempts - run.spent)
    with world.store.transaction():
        effect(
            "task.time_out.record",
            lambda: attempts.hand_back(
                world.store, run, work.reason, world.clock.now(), not_before_boot=world.clock.boottime() + wait
            ),
        )
    return Applied()


def _needed(value: Any) -> Any:
    if value is None:
        raise AssertionError("the plan left out what applying needs")
    return value


# --- several at once --------------------------------------------------------------------------------------------------


def join(changes: Sequence[Change]) -> Sequence[Sequence[Change]]:
    """In groups: runs that policy is asked about, and runs that begin without anything that may take long."""
    asked = [c for c in changes if c.action is Action.AUTHORISE and _is_plain(c.spec)]
    begun = [c for c in changes if c.action is Action.DISPATCH and _begins_at_once(c.spec)]
    groups = [some[n : n + JOINED] for some in (asked, begun) for n in range(0, len(some), JOINED)]
    return [group for group in groups if len(group) > 1]


def _is_plain(work: TaskWork) -> bool:
    return work.run is not None and work.delegation is None and not work.is_fallback


def _begins_at_once(work: TaskWork) -> bool:
    """Neither a workspace nor a way out has to be made for it."""
    agent = work.agent
    if work.run is None or agent is None or work.instance is None or not work.epoch:
        return False
    return agent.workspace not in ("full", "tree") and agent.exposure == "none"


def apply_joint(changes: Sequence[Change], world: World, desired: Desired) -> Sequence[Outcome]:
    """What `apply` does to each of a group of `join`, with one transaction and one call for all.

    Raises ReconcilerError. What was done by then is seen by `apply`, so that it repeats nothing of it.
    """
    works: Mapping[str, TaskWork] = {_needed(c.spec.run).run: c.spec for c in changes}
    if changes[0].action is Action.AUTHORISE:
        outcomes = _authorise_all(works, world)
    else:
        outcomes = _dispatch_all(works, world, desired)
    return [outcomes.get(run, Skipped(reason=_CHANGED)) for run in works]


def _unchanged(works: Mapping[str, TaskWork], world: World) -> dict[str, TaskRecord]:
    """The runs that are still as far as planning saw them, by run id."""
    now = {r.run: r for r in queue.by_run(world.store, works)}
    planned = {run: _needed(work.run) for run, work in works.items()}
    return {
        run: record if record.manifest else now[run]
        for run, record in planned.items()
        if run in now and _place(now[run]) == _place(record)
    }


def _authorise_all(works: Mapping[str, TaskWork], world: World) -> Mapping[str, Outcome]:
    runs = _unchanged(works, world)
    decisions = {run: _decide(record, works[run], world) for run, record in runs.items()}
    allowed = {run: _allowed(runs[run], works[run], d) for run, d in decisions.items() if d.allow}
    written = effect("task.authorise.record", _put_unchanged, works, allowed, world)
    still = _unchanged(works, world)
    denied = {r: _deny(runs[r], works[r], d, world) for r, d in decisions.items() if not d.allow and r in still}
    return denied | {run: Applied(note=f"allowed by {decisions[run].engine}") for run in written}


def _put_unchanged(works: Mapping[str, TaskWork], changed: Mapping[str, TaskRecord], world: World) -> Collection[str]:
    """Write those that nobody took further meanwhile; returns which."""
    with world.store.transaction():
        written = changed.keys() & _unchanged(works, world).keys()
        records.put_tasks(world.store, [changed[run] for run in changed if run in written])
        return written


def _dispatch_all(works: Mapping[str, TaskWork], world: World, desired: Desired) -> Mapping[str, Outcome]:
    runs = effect("task.dispatch.record", _assign_all, works, world)
    messages = [_assignment(r, _needed(works[run].spec), works[run], world, desired) for run, r in runs.items()]
    if not messages:
        return {}
    refused = dict(zip(runs, effect("task.dispatch.send", world.router.send_all, messages), strict=True))
    sent = [replace(r, sent_epoch=works[run].epoch) for run, r in runs.items() if not refused[run]]
    effect("task.dispatch.sent", _mark_sent, world, *sent)
    return {
        run: Failed(reason=f"the router refused the assignment: {refused[run]}", retryable=False)
        if refused[run]
        else Applied(note=f"generation {record.generation}")
        for run, record in runs.items()
    }


def _assign_all(works: Mapping[str, TaskWork], world: World) -> Mapping[str, TaskRecord]:
    """Those that go to an instance now, and those of an earlier pass whose instance may not know of them."""
    with world.store.transaction():
        runs = _unchanged(works, world)
        begun = {run: _begun(r, works[run], world) for run, r in runs.items() if r.state == TaskState.AUTHORISED}
        for run, record in begun.items():
            _assign(world, record, _needed(works[run].instance).container_id)
        return runs | begun
