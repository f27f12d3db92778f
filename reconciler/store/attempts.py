"""Task runs and instances together: what becomes of a run when the instance that had it is dead."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.core.fleet import Delegate
from reconciler.core.names import instance_name
from reconciler.store import queue, records
from reconciler.store.records import CANCEL_REQUESTED, DELEGATION, AttemptRecord, TaskRecord
from reconciler.store.store import Store

IN_FLIGHT = ("assigned", "running")
CHECKING = "checking"


def in_flight(store: Store, instance: str | None = None) -> list[TaskRecord]:
    """Runs that an instance has, or that any instance has."""
    return records.tasks_in(store, IN_FLIGHT, instance)


def waiting(store: Store, boot_id: str, boottime_s: float) -> Mapping[str, int]:
    """How many runs of each agent could begin now, if only an instance of it were ready."""
    return queue.waiting(store, queue.Due(boot_id=boot_id, boottime_s=boottime_s))


def delegated(store: Store) -> Mapping[str, Delegate]:
    """The instances that delegated runs have or wait for, by name."""
    found: Mapping[str, Delegate] = store.remembered("delegated", lambda: _delegated(store))
    return found


def _delegated(store: Store) -> Mapping[str, Delegate]:
    runs = records.tasks_in(store, ("authorised", *IN_FLIGHT), purpose=DELEGATION)
    return {
        instance_name(r.agent, r.step): Delegate(
            run=r.run,
            task=r.name,
            agent=r.agent,
            ordinal=r.step,
            capabilities=tuple(json.loads(r.manifest)[DELEGATION]["capabilities"]),
        )
        for r in runs
    }


def unended(store: Store) -> Sequence[str]:
    """Runs that are recorded as over, though when is not, or an attempt of theirs is open."""
    found: Sequence[str] = store.remembered("unended", lambda: _unended(store))
    return found


def _unended(store: Store) -> Sequence[str]:
    over = "state IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'rejected')"
    no_end = f"SELECT run FROM task WHERE finished_at = '' AND {over}"  # noqa: S608 - nothing from outside
    is_open = f"SELECT task.run FROM attempt JOIN task USING (run) WHERE attempt.ended_at = '' AND {over}"  # noqa: S608
    return [str(row[0]) for row in store.rows(f"{no_end} UNION {is_open} ORDER BY 1")]


def worked_at(store: Store, instances: Sequence[str]) -> Mapping[str, str]:
    """When each of these instances last began or ended a task (ISO, UTC); those that never did are left out."""
    if not instances:
        return {}
    known: Mapping[str, str] = store.remembered("worked_at", lambda: _worked_at(store))
    return {name: known[name] for name in instances if name in known}


def _worked_at(store: Store) -> Mapping[str, str]:
    query = "SELECT instance, max(max(assigned_at, ended_at)) FROM attempt GROUP BY instance"
    return dict(store.rows(query))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """That an instance had work of a sensitivity, and when it was last given any of it."""

    instance: str
    sensitivity: str
    last_at: str


def heard(store: Store, instances: Sequence[str]) -> list[Heard]:
    """Of which sensitivities the work was that these instances ever had."""
    known: list[Heard] = store.remembered("heard", lambda: _heard(store))
    wanted = set(instances)
    return [h for h in known if h.instance in wanted]


def _heard(store: Store) -> list[Heard]:
    query = (
        "SELECT attempt.instance, coalesce(json_extract(task.manifest, '$.spec.sensitivity'), 'internal') AS level, "
        "max(attempt.assigned_at) FROM attempt JOIN task ON task.run = attempt.run GROUP BY attempt.instance, level"
    )
    return [Heard(instance=instance, sensitivity=level, last_at=at) for instance, level, at in store.rows(query)]


def lose(store: Store, instance: str, reason: str, now: datetime) -> int:
    """Hand back every run of an instance that is confirmed dead; it will be assigned under the next generation.

    Returns how many there were. The attempt counts; its row says how it ended.
    """
    with store.transaction():
        lost = in_flight(store, instance)
        for task in lost:
            hand_back(store, task, f"lost with {instance}: {reason}", now)
        return len(lost)


def hand_back(store: Store, task: TaskRecord, reason: str, now: datetime, *, not_before_boot: float = 0.0) -> None:
    """Make a run assignable again and close its open attempt; one that was to be cancelled is cancelled now."""
    if task.reason.startswith(CANCEL_REQUESTED):
        cancelled = replace(task, state="cancelled", finished_at=now.isoformat(), progress="")
        with store.transaction():
            end_attempt(store, task, "cancelled", reason, now)
            records.put_tasks(store, [cancelled])
        return
    with store.transaction():
        end_attempt(store, task, "lost" if not not_before_boot else "failed", reason, now)
        records.put_tasks(
            store,
            [
                replace(
                    task,
                    state="authorised",
                    reason=reason,
                    instance="",
                    sent_epoch="",
                    not_before_boot=not_before_boot,
                )
            ],
        )


def end_attempt(store: Store, task: TaskRecord, outcome: str, reason: str, now: datetime) -> None:
    """Close the attempt of the run's present generation, or say what came of one that was closed to be checked."""
    for attempt in records.attempts(store, task.run):
        if attempt.generation == task.generation and (not attempt.ended_at or attempt.outcome == CHECKING):
            ended_at = attempt.ended_at or now.isoformat()
            records.put_attempt(store, replace(attempt, ended_at=ended_at, outcome=outcome, reason=reason))


def begin_attempt(store: Store, task: TaskRecord, container_id: str, now: datetime) -> None:
    """Open the attempt of the run's present generation."""
    records.put_attempt(
        store,
        AttemptRecord(
            run=task.run,
            generation=task.generation,
            instance=task.instance,
            container_id=container_id,
            assigned_at=now.isoformat(),
        ),
    )
