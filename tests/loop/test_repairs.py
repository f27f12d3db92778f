"""What is put right and does not stay so: a repair is tried a few times, and then somebody has to look."""

from dataclasses import replace

import pytest

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.outcome import Skipped
from reconciler.loop.repairs import WINDOW_S, Repairs, is_repair
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, actions, change_of
from tests.fakes.texts import agent_text, hub_text

GOOD = {"agents.d/a.yaml": agent_text()}
CHANGE = Change(
    kind="agent",
    name="a",
    instance="a-0",
    action=Action.REPLACE,
    cause=Cause.DRIFT,
    reason="changed by hand",
    fields=(FieldChange(path="working_dir", before="/", after="/workspace"),),
)


def test_only_what_differs_from_the_record_is_a_repair() -> None:
    assert is_repair(CHANGE)
    for other in (
        replace(CHANGE, cause=Cause.COMMIT),
        replace(CHANGE, fields=()),
        replace(CHANGE, action=Action.CREATE),
    ):
        assert not is_repair(other)


def test_repairs_count_in_a_row_and_by_what_they_are_about() -> None:
    repairs = Repairs()
    assert [repairs.count(CHANGE, "a", float(n)) for n in range(3)] == [1, 2, 3]
    assert repairs.count(replace(CHANGE, instance="a-1"), "a", 3.0) == 1
    assert repairs.count(CHANGE, "b", 3.0) == 1
    assert repairs.count(CHANGE, "b", 3.0 + WINDOW_S) == 2
    assert repairs.count(CHANGE, "b", 3.1 + 2 * WINDOW_S) == 1


@pytest.mark.parametrize(("path", "value"), [("working_dir", "/"), ("limits.pids", 7)])
def test_what_is_changed_by_hand_for_ever_is_left_after_a_few_repairs(
    fleet: FakeFleet, path: str, value: object
) -> None:
    fleet.commit(GOOD, hub=hub_text(loop={"concurrency": 1, "stalledAfter": 3}))
    fleet.settle()
    repaired = 0
    for _ in range(30):
        fleet.runtime.change_field("writer-0", path, value)
        repaired += any(is_repair(d.change) for d in fleet.run().applied)
        fleet.agents.step()
    assert repaired == 3
    (unit,) = records.units(fleet.store).values()
    assert unit.stalled
    assert unit.reason.startswith(f"{path} was put right 3 times and changed again")
    report = fleet.run()
    assert [d.outcome for d in report.done] == [Skipped(reason=f"stalled after 3 identical repairs: {unit.reason}")]
    assert report.is_stuck
    fleet.restart()
    assert not any(is_repair(d.change) for d in fleet.run().applied)
    fleet.commit(GOOD, hub=hub_text(loop={"concurrency": 1, "stalledAfter": 4}))
    assert any(is_repair(d.change) for d in fleet.run().applied)
    fleet.settle()


def test_what_is_gone_is_made_anew_however_often(fleet: FakeFleet) -> None:
    fleet.commit(GOOD, hub=hub_text(loop={"concurrency": 1, "stalledAfter": 2}))
    fleet.settle()
    for _ in range(5):
        fleet.runtime.remove_by_hand("writer-0")
        fleet.settle()
    assert actions(fleet.look()) == {"writer-0": "keep"}


def test_a_stalled_repair_does_not_keep_a_commit_out(fleet: FakeFleet) -> None:
    fleet.commit(GOOD, hub=hub_text(loop={"concurrency": 1, "stalledAfter": 1}))
    fleet.settle()
    for _ in range(5):
        fleet.runtime.change_field("writer-0", "working_dir", "/")
        fleet.run()
        fleet.agents.step()
    assert [u.stalled for u in records.units(fleet.store).values()] == [True]
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")}, hub=hub_text(loop={"concurrency": 1}))
    assert change_of(fleet.look(), "agent/writer-0").cause is Cause.COMMIT
    fleet.settle()
    assert fleet.instances()["writer-0"].phase == "executing"
