"""Taking a run one step further. Decides nothing; a run that changed since planning is left for the next pass."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from reconciler.core.change import Action, Change
from reconciler.core.outcome import Applied, Failed, Outcome, Skipped
from reconciler.core.reading import Ok
from reconciler.crashpoint import effect
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.plan import TaskWork, retry_wait_s
from reconciler.kinds.task.question import write_question
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import CANCEL_REQUESTED, TaskState
from reconciler.kinds.workspace import provide_workspace, workspace_path
from reconciler.store import attempts, records
from reconciler.store.records import TaskRecord
from reconciler.store.store import Store

FENCE_GRACE_S = 2.0


def apply(change: Change, world: World, desired: Desired) -> Outcome:
    """Carry out one change. Raises ReconcilerError where the surroundings broke."""
    work: TaskWork = change.spec
    if change.action is Action.CREATE:
        record = new_run(_needed(work.manifest), source="git", revision=desired.revision.id, now=world.clock.now())
        effect("task.create.record", records.put_tasks, world.store, [record])
        return Applied(note=f"run {record.run}")
    run = _needed(work.run)
    if not _is_as_planned(run, world):
        return Skipped(reason="it changed meanwhile; the next pass looks again")
    match change.action:
        case Action.AUTHORISE:
            return _authorise(run, work, world)
        case Action.DISPATCH:
            return _dispatch(run, work, world, desired)
        case Action.COMPLETE:
            return _complete(run, _needed(work.state), work.reason, world)
        case Action.CANCEL:
            return _cancel(run, work.reason, world)
        case Action.RETRY:
            return _retry(run, work, world)
        case Action.TIME_OUT:
            return _time_out(run, work, world, desired)
        case _:
            return Failed(reason=f"a task cannot be asked to {change.action}", retryable=False)


def new_run(manifest: Manifest[TaskSpec], *, source: str, revision: str, now: datetime, uid: int = 0) -> TaskRecord:
    """A pending run of a manifest under a new run id."""
    return TaskRecord(
        run=secrets.token_hex(6),
        name=manifest.name,
        spec_digest=manifest.digest,
        manifest=json.dumps(manifest.written, sort_keys=True),
        source=source,
        uid=uid,
        revision=revision,
        state=TaskState.PENDING,
        priority=manifest.spec.priority,
        created_at=now.isoformat(),
    )


def _is_as_planned(run: TaskRecord, world: World) -> bool:
    current = records.task(world.store, run.run)
    return current is not None and (current.state, current.generation) == (run.state, run.generation)


def _authorise(run: TaskRecord, work: TaskWork, world: World) -> Outcome:
    spec = _needed(work.spec)
    if work.agent is None:
        who = f"agent {spec.agent}" if spec.agent else f"an agent with {', '.join(spec.requires)}"
        return _complete(run, TaskState.REJECTED, f"{who} is not in the fleet", world)
    decision = world.policy.decide("task", _question(run, work, world))
    reason = "; ".join(decision.reasons)
    if not decision.allow and work.state is None:
        return Skipped(reason=f"policy ({decision.engine}) does not allow {work.agent.name}: {reason}")
    if not decision.allow:
        rejected = replace(run, policy_revision=decision.revision)
        return _complete(rejected, TaskState.REJECTED, f"policy ({decision.engine}) said no: {reason}", world)
    allowed = replace(
        run,
        state=TaskState.AUTHORISED,
        agent=work.agent.name,
        policy_revision=decision.revision,
        reason=run.reason if run.attempts else "",
    )
    effect("task.authorise.record", records.put_tasks, world.store, [allowed])
    return Applied(note=f"allowed by {decision.engine}")


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
    report = world.router.report()
    if not isinstance(report, Ok):
        return Failed(reason="the router does not answer", transient=True)
    if agent is None or work.instance is None:
        return Failed(reason="its instance went away meanwhile; the next pass looks again", transient=True)
    if run.state == TaskState.AUTHORISED:
        run = replace(
            run,
            state=TaskState.ASSIGNED,
            agent=agent.name,
            instance=work.instance.name,
            generation=run.generation + 1,
            attempts=run.attempts + 1,
            sent_epoch="",
            boot_id=world.clock.boot_id(),
            assigned_boot=world.clock.boottime(),
            reason="",
            progress="",
        )
        effect("task.dispatch.record", _assign, world, run, work.instance.container_id)
    if agent.workspace in ("full", "tree"):
        effect("task.dispatch.workspace", provide_workspace, world, run.revision, agent.workspace == "full")
    message = _assignment(run, spec, work, world, desired)
    effect("task.dispatch.send", world.router.send, message)
    sent = replace(run, sent_epoch=report.value.epoch)
    effect("task.dispatch.sent", _mark_sent, world, sent)
    return Applied(note=f"generation {run.generation}")


def _mark_sent(world: World, sent: TaskRecord) -> None:
    """Note the epoch, unless a report of the agent's overtook us."""
    with world.store.transaction():
        current = records.task(world.store, sent.run)
        if current is not None and current.generation == sent.generation:
            records.put_tasks(world.store, [replace(current, sent_epoch=sent.sent_epoch)])


def _assign(world: World, run: TaskRecord, container_id: str) -> None:
    with world.store.transaction():
        records.put_tasks(world.store, [run])
        attempts.begin_attempt(world.store, run, container_id, world.clock.now())


def _assignment(run: TaskRecord, spec: TaskSpec, work: TaskWork, world: World, desired: Desired) -> dict[str, Any]:
    agent = _needed(work.agent)
    found = records.results(world.store, list(work.parents.values()))
    parents = {name: json.loads(found[r].result) if r in found else None for name, r in work.parents.items()}
    return {
        "instance": run.instance,
        "message": {
            "id": f"{run.run}-{run.generation}",
            "type": "task.assigned",
            "pattern": "request",
            "payload": {
                "task": run.name,
                "run": run.run,
                "generation": run.generation,
                "lease_s": desired.hub.router.lease,
                "timeout_s": spec.timeout,
                "prompt": spec.prompt,
                "input": spec.input,
                "parents": parents,
                "workspace": workspace_path(world, run.instance, run.revision, agent.workspace),
                "output": {"maxSize": spec.output.max_size, "artefacts": list(spec.output.artefacts)},
                "sensitivity": spec.sensitivity,
            },
        },
    }


def _complete(run: TaskRecord, state: TaskState, reason: str, world: World) -> Outcome:
    done = replace(run, state=state, reason=reason, finished_at=world.clock.now().isoformat())
    effect("task.complete.record", records.put_tasks, world.store, [done])
    return Applied(note=reason)


def _cancel(run: TaskRecord, reason: str, world: World) -> Outcome:
    if run.state not in (TaskState.ASSIGNED, TaskState.RUNNING):
        return _complete(run, TaskState.CANCELLED, reason, world)
    report = world.router.report()
    epoch = report.value.epoch if isinstance(report, Ok) else ""
    asked = replace(run, reason=f"{CANCEL_REQUESTED}: {reason.removeprefix(f'{CANCEL_REQUESTED}: ')}", sent_epoch=epoch)
    effect("task.cancel.record", records.put_tasks, world.store, [asked])
    order = {"task": run.name, "run": run.run, "generation": run.generation}
    message = {"id": f"{run.run}-{run.generation}-cancel", "type": "task.cancel", "pattern": "event", "payload": order}
    effect("task.cancel.send", world.router.send, {"instance": run.instance, "message": message})
    world.router.set_cancels(run.instance, open_cancels(world.store, run.instance))
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
    wait = retry_wait_s(retry, run.attempts, 1.0)
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
