"""What the record tells of agents, counted from one of its rows on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.store import records
from reconciler.store.audit import AuditEntry, append
from reconciler.store.records import AttemptRecord, TaskRecord
from reconciler.store.store import Store
from reconciler.store.trust import Alarm, alarms_since, events_since, newest_row


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db")
    yield opened
    opened.close()


def note(store: Store, **columns: Any) -> int:
    """One row of the audit log; returns its seq."""
    append(store, [AuditEntry(time="t", boottime=0.0, fleet="f", **columns)])
    return newest_row(store)


def succeed(store: Store, instance: str = "writer-0", reason: str = "succeeded on writer-0") -> int:
    completed = {"kind": "task", "name": "t", "action": "task.completed", "outcome": "applied"}
    return note(store, actor=f"agent:{instance}", reason=reason, **completed)


def test_an_empty_record_tells_nothing(store: Store) -> None:
    assert newest_row(store) == 0
    assert events_since(store, 0) == {}


def test_successes_and_crashes_are_counted_by_instance_and_from_a_row_on(store: Store) -> None:
    old = succeed(store)
    succeed(store)
    succeed(store)
    succeed(store, "reader-1")
    note(store, kind="agent", name="writer-0", cause="crash", action="restart", outcome="intent")
    note(store, kind="agent", name="writer-0", cause="crash", action="restart", outcome="applied")
    note(store, kind="agent", name="writer-0", cause="commit", action="replace", outcome="intent")
    assert events_since(store, old) == {"writer-0": {"success": 2, "crash": 1}, "reader-1": {"success": 1}}
    assert events_since(store, newest_row(store)) == {}


def test_a_result_that_is_still_to_be_checked_is_no_success_before_it_was_accepted(store: Store) -> None:
    records.put_tasks(store, [TaskRecord(run="r", name="t", spec_digest="d", manifest="{}", source="git", state="x")])
    for generation, instance in ((1, "writer-0"), (2, "writer-1")):
        records.put_attempt(
            store, AttemptRecord(run="r", generation=generation, instance=instance, ended_at=str(generation))
        )
    succeed(store, reason="ended on writer-1, and its result is checked")
    assert events_since(store, 0) == {}
    note(store, kind="task", name="t", action="complete", outcome="applied", reason="accepted")
    assert events_since(store, 0) == {"writer-1": {"success": 1}}
    note(store, kind="task", name="t", action="retry", outcome="applied", reason="not accepted: too short")
    assert events_since(store, 0) == {"writer-1": {"success": 1, "notAccepted": 1}}


def test_a_task_that_was_lost_or_is_unknown_is_nobody_s_fault(store: Store) -> None:
    note(store, kind="task", name="t", action="retry", outcome="applied", reason="the machine was started again")
    note(store, kind="task", name="gone", action="retry", outcome="applied", reason="not accepted: x")
    assert events_since(store, 0) == {}


def test_alarms_are_the_latest_of_each_type_and_instance(store: Store) -> None:
    for reason in ("first", "second"):
        note(store, kind="message", name="hub.flood", actor="agent:a-0", outcome="noted", reason=reason)
    note(store, kind="message", name="hub.flood", actor="agent:b-0", outcome="noted", reason="b")
    note(store, kind="message", name="docs.note", actor="agent:b-0", outcome="noted", reason="c")
    assert alarms_since(store, 0, ["hub.flood", "hub.forged"]) == [
        Alarm(type="hub.flood", actor="agent:a-0", reason="second"),
        Alarm(type="hub.flood", actor="agent:b-0", reason="b"),
    ]
    assert alarms_since(store, newest_row(store), ["hub.flood"]) == []
