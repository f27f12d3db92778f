"""What becomes of a run when the instance that had it is dead."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.store import attempts, records
from reconciler.store.records import CANCEL_REQUESTED, AttemptRecord, TaskRecord
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
