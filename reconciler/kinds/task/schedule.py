"""Which runs a schedule makes now, and when the next one is due. Pure: manifests, what was seen to and time come in.

Each run is one instant of the schedule, and its id follows from name and instant: whatever the clock does, there is
never a second one. What was seen to goes forward only, unless the clock is set back by more than a day.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from reconciler.core.change import Action, Cause, Change
from reconciler.core.schedule import last_due, next_due
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.child import run_id
from reconciler.kinds.task.spec import LoadedTasks, Schedule, TaskSpec
from reconciler.kinds.task.state import TaskState, TaskStates
from reconciler.kinds.task.step import TaskWork, task_change
from reconciler.store.records import ScheduleRecord, TaskRecord

MOST = 100
"""So many runs of one schedule may be unfinished, or made up for at once."""

LATE = timedelta(minutes=1)
"""What is noticed later than this was missed."""

SET_BACK = timedelta(days=1)


def plan_schedules(desired: Desired, observed: TaskStates, facts: Facts) -> Sequence[Change]:
    """One change per schedule: KEEP with the seconds until it is due next, unless there is something to do."""
    scheduled: Mapping[str, Manifest[TaskSpec]] = {
        n: m for n, m in desired.of("task").items() if m.spec.schedule is not None
    }
    if not scheduled and not observed.schedules:
        return ()
    known = observed.occurred
    out = [
        _plan_one(m, m.spec.schedule, observed.schedules.get(n), observed.unfinished.get(n, 0), known, desired, facts)
        for n, m in sorted(scheduled.items())
        if m.spec.schedule is not None
    ]
    for name in sorted(observed.schedules.keys() - scheduled.keys()):
        out.append(task_change(name, Action.UPDATE, "its schedule was removed from git", "", TaskWork(ended=name)))
    return out


def schemas_of(manifest: Manifest[TaskSpec], desired: Desired) -> str:
    """The contents of the schemas that a task's result has to fit, as JSON by path: a run keeps them."""
    loaded = desired.loaded.get("task")
    schemas = loaded.schemas if isinstance(loaded, LoadedTasks) else {}
    return json.dumps({c.schema_: schemas[c.schema_] for c in manifest.spec.checks if c.schema_ is not None})


def show_due(due: datetime, zone: str) -> str:
    """`2026-11-23 06:00 Europe/Berlin`."""
    return f"{due.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M} {zone}"


def show_schedules(schedules: Iterable[ScheduleRecord], now: datetime) -> list[dict[str, str]]:
    """Each with when it is due next, as text; empty where never."""
    out: list[dict[str, str]] = []
    for record in sorted(schedules, key=lambda r: r.name):
        due = next_due(record.cron, record.zone, now.astimezone(UTC).replace(second=0, microsecond=0))
        shown = show_due(due, record.zone) if due else ""
        out.append({"name": record.name, "cron": record.cron, "zone": record.zone, "next": shown})
    return out


def _plan_one(
    manifest: Manifest[TaskSpec],
    schedule: Schedule,
    record: ScheduleRecord | None,
    unfinished: int,
    known: frozenset[str],
    desired: Desired,
    facts: Facts,
) -> Change:
    now = facts.now.astimezone(UTC)
    minute = now.replace(second=0, microsecond=0)
    fresh = ScheduleRecord(name=manifest.name, cron=schedule.cron, zone=schedule.zone, since=now.isoformat())

    def change(action: Action, reason: str, work: TaskWork, wait_s: float | None = None) -> Change:
        return task_change(manifest.name, action, reason, manifest.digest, work, Cause.SCHEDULE, wait_s)

    due_next = next_due(schedule.cron, schedule.zone, minute)
    soon = f"due next at {show_due(due_next, schedule.zone)}" if due_next else "never due again"
    if record is None:
        return replace(change(Action.CREATE, f"new in git; {soon}", TaskWork(schedule=fresh)), cause=Cause.COMMIT)
    if (record.cron, record.zone) != (schedule.cron, schedule.zone):
        return replace(change(Action.UPDATE, f"schedule changed; {soon}", TaskWork(schedule=fresh)), cause=Cause.COMMIT)
    since = datetime.fromisoformat(record.since)
    if since - now > SET_BACK:
        return change(Action.UPDATE, f"the clock was set back by more than a day; {soon}", TaskWork(schedule=fresh))
    due = last_due(schedule.cron, schedule.zone, since, minute, MOST)
    if due and unfinished >= MOST:
        return change(Action.KEEP, f"{unfinished} runs of it are not finished; no more are made", TaskWork())
    if not due:
        wait_s = (due_next - now).total_seconds() if due_next else None
        return change(Action.KEEP, soon, TaskWork(), wait_s)
    runs = tuple(_occurrences(manifest, _chosen(schedule, due, now), known, desired, now))
    seen_to = replace(record, since=due[-1].isoformat())
    missed = f", {len(due) - len(runs)} others were missed" if len(due) > len(runs) else ""
    made = ", ".join(show_due(datetime.fromisoformat(r.due), schedule.zone) for r in runs[-3:]) or "nothing"
    return change(
        Action.CREATE if runs else Action.UPDATE, f"due: {made}{missed}", TaskWork(new=runs, schedule=seen_to)
    )


def _chosen(schedule: Schedule, due: Sequence[datetime], now: datetime) -> Sequence[datetime]:
    match schedule.missed:
        case "once":
            return due[-1:]
        case "skip":
            return [instant for instant in due if now - instant <= LATE]
        case "all":
            return due


def _occurrences(
    manifest: Manifest[TaskSpec], due: Sequence[datetime], known: frozenset[str], desired: Desired, now: datetime
) -> Iterator[TaskRecord]:
    for instant in due:
        run = run_id(manifest.name, instant.isoformat())
        if run not in known:
            yield TaskRecord(
                run=run,
                name=f"{manifest.name}-{instant:%Y%m%d-%H%M}",
                spec_digest=manifest.digest,
                manifest=json.dumps(manifest.written, sort_keys=True),
                source="git",
                revision=desired.revision.id,
                state=TaskState.PENDING,
                priority=manifest.spec.priority,
                created_at=now.isoformat(),
                schedule=manifest.name,
                due=instant.isoformat(),
                schemas=schemas_of(manifest, desired),
            )
