"""Records in and out of state.db: what goes in comes out, and the questions answer what they say."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.condition import Condition
from reconciler.store import records
from reconciler.store.records import (
    AttemptRecord,
    DroppedRecord,
    InstanceRecord,
    ResultRecord,
    RevisionRecord,
    TaskRecord,
    UnitRecord,
)
from reconciler.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db")
    yield opened
    opened.close()


INSTANCE = InstanceRecord(
    name="writer-0", agent="writer", ordinal=0, phase="executing", spec_digest="1:a", manifest="{}", revision="r1"
)


def task(run: str, **more: object) -> TaskRecord:
    base = TaskRecord(run=run, name=f"task-{run}", spec_digest="1:a", manifest="{}", source="git", state="pending")
    return replace(base, **more)  # type: ignore[arg-type]


def test_an_instance_comes_out_as_it_went_in_and_is_replaced_whole(store: Store) -> None:
    records.put_instance(store, INSTANCE)
    changed = replace(INSTANCE, phase="upgrading", token_expires_at=1.5, reason="ä\n", crashes=2)
    records.put_instance(store, changed)
    records.put_instance(store, replace(INSTANCE, name="writer-1", ordinal=1))
    assert records.instances(store)["writer-0"] == changed
    records.delete_instance(store, "writer-0")
    records.delete_instance(store, "never-was")
    assert list(records.instances(store)) == ["writer-1"]


def test_runs_are_listed_oldest_first(store: Store) -> None:
    records.put_tasks(store, [task("c", created_at="2"), task("a", created_at="3"), task("b", created_at="1")])
    assert [t.run for t in records.tasks(store)] == ["b", "c", "a"]
    assert records.task(store, "c") == task("c", created_at="2")
    assert records.task(store, "x") is None


def test_runs_by_state_and_instance(store: Store) -> None:
    runs = [task("a", state="running", instance="i-0"), task("b", state="assigned", instance="i-1"), task("c")]
    records.put_tasks(store, runs)
    assert {t.run for t in records.tasks_in(store, ["running", "assigned"])} == {"a", "b"}
    assert {t.run for t in records.tasks_in(store, ["running", "assigned"], "i-1")} == {"b"}
    assert records.tasks_in(store, []) == []


def test_a_run_that_succeeded_without_a_result_is_found(store: Store) -> None:
    records.put_tasks(store, [task("a", state="succeeded"), task("b", state="succeeded"), task("c", state="failed")])
    records.put_result(store, ResultRecord(run="b", exit_code=0, result='{"x": 1}'))
    assert records.runs_without_result(store) == frozenset({"a"})
    assert records.results(store, ["a", "b"]) == {"b": ResultRecord(run="b", exit_code=0, result='{"x": 1}')}
    assert records.results(store, []) == {}


def test_attempts_are_listed_by_generation(store: Store) -> None:
    for generation in (2, 1, 10):
        records.put_attempt(store, AttemptRecord(run="a", generation=generation, instance="i-0"))
    records.put_attempt(store, AttemptRecord(run="b", generation=1, instance="i-0"))
    assert [a.generation for a in records.attempts(store, "a")] == [1, 2, 10]


def test_dropped_files_are_listed_until_they_are_answered(store: Store) -> None:
    dropped = DroppedRecord(target="t", name="n", digest="d", signature="s", uid=0, run="r")
    records.put_dropped(store, dropped)
    assert records.dropped(store) == [dropped]
    records.put_dropped(store, replace(dropped, claimed=True))
    assert records.dropped(store) == [replace(dropped, claimed=True)]
    records.put_dropped(store, replace(dropped, answered=True))
    assert records.dropped(store) == []


def test_only_the_blobs_of_the_last_good_revision_are_kept(store: Store) -> None:
    records.keep_blobs(store, {"1": b"a", "2": b"\x00\xff"}, [])
    assert records.blob_ids(store) == {"1", "2"}
    records.keep_blobs(store, {"3": b""}, ["1"])
    assert records.blobs(store, ["1", "2", "3"]) == {"2": b"\x00\xff", "3": b""}


def test_revisions_are_kept_by_id(store: Store) -> None:
    record = RevisionRecord(id="r1", author="Ada", audited=False, tree='{"a": ["b", 1, "100644"]}')
    records.put_revision(store, record)
    assert records.revision(store, "r1") == record
    assert records.revision(store, "r2") is None
    assert records.revisions(store) == [record]


def test_units_are_kept_until_they_are_cleared(store: Store) -> None:
    unit = UnitRecord(
        unit="agent/a-0",
        input_digest="1:a",
        failures=2,
        same_failures=1,
        not_before_boot=7.5,
        boot_id="b",
        reason="no",
        stalled=True,
    )
    records.put_unit(store, unit)
    assert records.units(store) == {"agent/a-0": unit}
    records.clear_units(store, ["agent/a-0", "agent/b-0"])
    assert records.units(store) == {}


def test_conditions_keep_their_time(store: Store) -> None:
    since = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
    condition = Condition(subject="hub", type="RouterDown", status=True, reason="R", message="m", since=since)
    records.put_conditions(store, [condition])
    assert records.conditions(store) == {("hub", "RouterDown"): condition}
    over = replace(condition, status=False)
    records.put_conditions(store, [over])
    assert records.conditions(store) == {("hub", "RouterDown"): over}
