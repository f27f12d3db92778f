"""What becomes of a run when the instance that had it is dead."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.store import attempts, queue, records
from reconciler.store.records import CANCEL_REQUESTED, DELEGATION, AttemptRecord, TaskRecord
from reconciler.store.store import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = TaskRecord(
    run="r",
    name="t",
    spec_digest="1:a",
    manifest="{}",
    source="git",
    state="running",
    agent="writer",
    instance="writer-0",
    generation=2,
    attempts=2,
    sent_epoch="e",
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db")
    yield opened
    opened.close()


def begin(store: Store, run: TaskRecord = RUN) -> None:
    records.put_tasks(store, [run])
    records.put_attempt(
        store, AttemptRecord(run="r", generation=1, instance="writer-1", ended_at="before", outcome="lost")
    )
    attempts.begin_attempt(store, run, "c1", NOW)


def test_a_lost_run_can_be_assigned_again_and_its_attempt_is_closed(store: Store) -> None:
    begin(store)
    assert attempts.lose(store, "writer-0", "it crashed", NOW) == 1
    assert records.task(store, "r") == replace(
        RUN, state="authorised", instance="", sent_epoch="", reason="lost with writer-0: it crashed"
    )
    first, second = records.attempts(store, "r")
    assert (first.ended_at, first.outcome) == ("before", "lost")
    assert (second.ended_at, second.outcome, second.container_id) == (NOW.isoformat(), "lost", "c1")


def test_runs_of_other_instances_and_runs_that_are_over_stay_as_they_are(store: Store) -> None:
    begin(store)
    over = replace(RUN, run="s", state="succeeded")
    records.put_tasks(store, [over])
    assert attempts.lose(store, "writer-1", "gone", NOW) == 0
    attempts.lose(store, "writer-0", "gone", NOW)
    assert records.task(store, "s") == over


def test_losing_twice_changes_nothing_more(store: Store) -> None:
    begin(store)
    attempts.lose(store, "writer-0", "first", NOW)
    before = (records.task(store, "r"), records.attempts(store, "r"))
    assert attempts.lose(store, "writer-0", "second", NOW) == 0
    assert (records.task(store, "r"), records.attempts(store, "r")) == before


def test_a_run_that_failed_waits_before_it_is_assigned_again(store: Store) -> None:
    begin(store)
    attempts.hand_back(store, RUN, "failed: no", NOW, not_before_boot=99.0)
    run = records.task(store, "r")
    assert run is not None
    assert (run.state, run.reason, run.not_before_boot) == ("authorised", "failed: no", 99.0)
    assert records.attempts(store, "r")[1].outcome == "failed"


def test_a_run_that_was_to_be_cancelled_is_cancelled_when_it_is_lost(store: Store) -> None:
    begin(store, replace(RUN, reason=f"{CANCEL_REQUESTED}: by uid:0"))
    attempts.lose(store, "writer-0", "it crashed", NOW)
    run = records.task(store, "r")
    assert run is not None
    assert (run.state, run.reason, run.finished_at) == ("cancelled", f"{CANCEL_REQUESTED}: by uid:0", NOW.isoformat())
    assert records.attempts(store, "r")[1].outcome == "cancelled"


def test_a_run_that_is_recorded_as_over_is_suspect_without_a_time_or_with_an_open_attempt(store: Store) -> None:
    begin(store, replace(RUN, state="failed", finished_at="then"))
    over = replace(RUN, run="over", state="failed", finished_at="then")
    records.put_tasks(
        store, [over, replace(over, run="timeless", finished_at=""), replace(over, run="on", state="running")]
    )
    assert attempts.unended(store) == ["r", "timeless"]
    attempts.end_attempt(store, RUN, "failed", "", NOW)
    assert attempts.unended(store) == ["timeless"]


def test_each_delegated_run_on_its_way_has_an_instance_of_its_own(store: Store) -> None:
    manifest = json.dumps({"delegation": {"capabilities": ["git.read"]}})
    below = replace(RUN, purpose=DELEGATION, parent=RUN.run, agent="reader", manifest=manifest, instance="")
    waits = replace(below, run="w", name="w", step=1001, state="authorised")
    runs = replace(below, run="q", name="q", step=1000, state="running", instance="reader-1000")
    over = replace(below, run="o", name="o", step=1002, state="succeeded", finished_at="2026-01-01T00:00:00+00:00")
    begin(store)
    records.put_tasks(store, [waits, runs, over, replace(below, run="p", name="p", step=1003, state="pending")])
    assert {name: (d.run, d.ordinal, d.capabilities) for name, d in attempts.delegated(store).items()} == {
        "reader-1000": ("q", 1000, ("git.read",)),
        "reader-1001": ("w", 1001, ("git.read",)),
    }
    assert "reader" not in attempts.waiting(store, "boot", 0.0)


def test_what_was_delegated_is_read_for_as_long_as_who_asked_for_it_runs(store: Store) -> None:
    begin(store)
    child = replace(RUN, run="c", name="c", purpose=DELEGATION, parent=RUN.run, state="succeeded", step=1000)
    below = replace(child, run="d", name="d", parent="c", step=1001)
    check = replace(child, run="e", name="e", purpose="check")
    records.put_tasks(store, [child, below, check])
    assert {r.run for r in queue.delegations(store)} == {"c", "d"}
    assert queue.count_made_for(store, RUN.run) == 2
    records.put_tasks(store, [replace(RUN, state="failed")])
    assert queue.delegations(store) == []
