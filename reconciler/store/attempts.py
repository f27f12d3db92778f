"""Task runs and instances together: what becomes of a run when the instance that had it is dead."""

from dataclasses import replace
from datetime import datetime

from reconciler.store import records
from reconciler.store.records import CANCEL_REQUESTED, AttemptRecord, TaskRecord
from reconciler.store.store import Store

IN_FLIGHT = ("assigned", "running")


def in_flight(store: Store, instance: str | None = None) -> list[TaskRecord]:
    """Runs that an instance has, or that any instance has."""
    return records.tasks_in(store, IN_FLIGHT, instance)


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
    """Close the attempt of the run's present generation."""
    for attempt in records.attempts(store, task.run):
        if attempt.generation == task.generation and not attempt.ended_at:
            records.put_attempt(store, replace(attempt, ended_at=now.isoformat(), outcome=outcome, reason=reason))


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
