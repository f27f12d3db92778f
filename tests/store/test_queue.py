"""Questions about runs that wait: the right ones, and none that looks at all runs."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.kinds.kind import Listening
from reconciler.kinds.task.observe import read_states
from reconciler.settings import HubSpec
from reconciler.store import queue, records
from reconciler.store.queue import Due, Group
from reconciler.store.records import ScheduleRecord, TaskRecord
from reconciler.store.store import Store
from tests.fakes.store import FusedStore

DUE = Due(boot_id="b", boottime_s=100.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(FusedStore(tmp_path / "state.db")) as opened:
        yield opened


def run(id_: str, state: str = "authorised", manifest: str = '{"spec": {"agent": "a"}}', **more: Any) -> TaskRecord:
    values = {"agent": "a", "boot_id": "b", "created_at": f"2026-01-01T00:00:00.{id_}", **more}
    return TaskRecord(
        run=id_, name=f"t{id_}", spec_digest="1:x", manifest=manifest, source="api", state=state, **values
    )


NEEDS = '{"spec": {"agent": "a", "dependsOn": ["t0"]}}'


def test_runs_are_counted_by_what_they_wait_for(store: Store) -> None:
    records.put_tasks(store, [run("1"), run("2"), run("3", manifest=NEEDS), run("4", "running"), run("5", agent="b")])
    line = '["a",null,null,null]'
    assert queue.groups(store) == [
        Group("a", line, "", 2),
        Group("a", line, '["t0"]', 1),
        Group("b", line, "", 1),
    ]


@pytest.mark.parametrize(
    ("parent", "later", "count"),
    [(None, 0.0, 1), ("running", 0.0, 1), ("failed", 0.0, 1), ("succeeded", 0.0, 2), ("succeeded", 101.0, 1)],
)
def test_only_what_could_begin_now_counts_as_waiting(
    store: Store, parent: str | None, later: float, count: int
) -> None:
    records.put_tasks(store, [run("1"), run("2", manifest=NEEDS, not_before_boot=later)])
    records.put_tasks(store, [run("0", parent)] if parent else [])
    assert queue.waiting(store, DUE) == {"a": count}


def test_what_was_to_be_tried_later_before_the_machine_was_started_again_counts(store: Store) -> None:
    records.put_tasks(store, [run("1", not_before_boot=500.0, boot_id="before")])
    assert queue.waiting(store, DUE) == {"a": 1}


def test_the_newest_run_of_a_name_says_whether_others_wait_for_it(store: Store) -> None:
    old, new = run("01", "succeeded"), run("02", "running")
    records.put_tasks(store, [run("1", manifest='{"spec": {"dependsOn": ["t"]}}')])
    for record in (old, new):
        records.put_tasks(store, [TaskRecord(**{n: getattr(record, n) for n in record.__slots__} | {"name": "t"})])
    assert queue.parent_states(store) == {"t": "running"}


def test_the_place_of_a_run_is_that_in_its_own_line(store: Store) -> None:
    urgent, last = run("8", priority=3), run("9")
    records.put_tasks(
        store, [run("1"), run("2", agent="b"), run("3", manifest='{"spec": {"agent": "b"}}'), urgent, last]
    )
    assert (queue.ahead_of(store, urgent), queue.ahead_of(store, last)) == (0, 2)


def test_what_a_run_was_made_for_is_found_up_to_the_top(store: Store) -> None:
    made = [run("1", "running"), run("2", "running", purpose="delegation", parent="1")]
    made += [run("3", "pending", purpose="delegation", parent="2"), run("4", "succeeded", purpose="check", parent="2")]
    records.put_tasks(store, made)
    assert [r.run for r in queue.above(store, {"2"})] == ["1", "2"]
    assert [r.run for r in queue.delegated_below(store)] == ["2", "3"]


def test_a_run_that_the_hub_made_stands_in_no_line(store: Store) -> None:
    records.put_tasks(store, [run("1", purpose="check", parent="0")])
    assert [g.line for g in queue.groups(store)] == [""]
    assert [r.run for r in queue.moving(store)] == ["1"]


def test_of_what_a_schedule_made_only_what_it_has_not_seen_to_is_asked_for(store: Store) -> None:
    records.put_schedule(
        store, ScheduleRecord(name="s", cron="* * * * *", zone="UTC", since="2026-01-02T00:00:00+00:00")
    )
    seen = run("1", "succeeded", schedule="s", due="2026-01-02T00:00:00+00:00")
    new = run("2", "pending", schedule="s", due="2026-01-02T00:01:00+00:00")
    records.put_tasks(store, [seen, new])
    assert queue.newer_than_seen(store) == {"2"}
    assert queue.unfinished(store) == {"s": 1}


class Explained(FusedStore):
    """A store that notes how SQLite goes about each question."""

    def __init__(self, path: Path) -> None:
        self.steps: list[str] = []
        super().__init__(path)

    def rows(self, query: str, **values: object) -> list[Any]:
        if query.startswith(("SELECT", "WITH")):
            self.steps += [row[3] for row in super().rows(f"EXPLAIN QUERY PLAN {query}", **values)]
        return super().rows(query, **values)


def test_no_question_of_a_pass_looks_at_every_run(tmp_path: Path) -> None:
    with closing(Explained(tmp_path / "state.db")) as store:
        records.put_tasks(store, [run("1"), run("2", manifest=NEEDS), run("3", "running"), run("4", "checking")])
        store.steps.clear()
        read_states(store, HubSpec(), DUE, Listening())
        queue.waiting(store, DUE)
        records.tasks_in(store, ("assigned", "running"))
        assert len(store.steps) > 20
        assert [s for s in store.steps if s.startswith(("SCAN task", "SCAN attempt"))] == []
