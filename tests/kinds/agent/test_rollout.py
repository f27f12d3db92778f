"""Rolling out a changed manifest: a few at a time, and back when what is made from it fails."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.store.records import OrderRecord
from tests.fakes.clock import START
from tests.fakes.fleet import FakeFleet, actions, change_of, told
from tests.fakes.texts import agent_text, task_text
from tests.kinds.agent.build import manifest_of, plan_all, record_of, state_of

OLD, NEW = manifest_of(replicas=3), manifest_of(replicas=3, version="2")


def planned(*states: InstanceState, **more: Any) -> dict[str, tuple[Action, Cause, str]]:
    changes = plan_all([NEW], *states, **more)
    return {str(c.instance): (c.action, c.cause, c.reason) for c in changes}


def old(ordinal: int, **record: Any) -> InstanceState:
    return state_of(record_of(OLD, ordinal, **record))


def just_made(ordinal: int = 0, container: str = "running", *, age_s: float = 10, **record: Any) -> InstanceState:
    """An instance that was made from the new manifest a moment ago, and worked before."""
    before = record_of(OLD, ordinal)
    made = {"manifest": before.manifest, "digest": OLD.digest, "image_id": before.image_id, "revision": "r0"}
    at = (START - timedelta(seconds=age_s)).isoformat()
    more = {"created_at": at, "updated_at": at, "previous": json.dumps(made), "revision": "r1", **record}
    return state_of(record_of(NEW, ordinal, **more), container=container)


# --- how many at a time -----------------------------------------------------------------------------------------------


def test_one_after_the_other_is_replaced() -> None:
    found = planned(old(0), old(1), old(2))
    assert [found[f"writer-{n}"][0] for n in range(3)] == [Action.REPLACE, Action.HOLD, Action.HOLD]
    assert found["writer-1"][2] == "changed in git; waits, since 1 of 3 are away (maxUnavailable 1)"


def test_while_one_is_on_its_way_or_draining_the_others_wait() -> None:
    assert [a for a, _, _ in planned(just_made(phase=Phase.HANDSHAKING), old(1), old(2)).values()] == [
        Action.UPDATE,
        Action.HOLD,
        Action.HOLD,
    ]
    draining = planned(old(0, phase=Phase.UPGRADING), old(1), old(2), busy={"writer-0": 1})
    assert [a for a, _, _ in draining.values()] == [Action.HOLD, Action.HOLD, Action.HOLD]


def test_as_many_as_the_manifest_allows_go_at_once_and_what_is_down_anyway_always() -> None:
    two = manifest_of(replicas=3, version="2", lifecycle={"maxUnavailable": 2})
    changes = plan_all([two], old(0), old(1), old(2))
    assert [c.action for c in changes] == [Action.REPLACE, Action.REPLACE, Action.HOLD]
    down = state_of(record_of(OLD, 2), container="exited")
    assert [a for a, _, _ in planned(old(0), old(1), down).values()] == [Action.HOLD, Action.HOLD, Action.REPLACE]


def test_neither_a_sleeper_nor_one_that_an_operator_took_out_holds_a_roll_out_up() -> None:
    order = OrderRecord(name="writer-0", verb="drain", actor="uid:0", at="")
    out = state_of(record_of(NEW, 0, phase=Phase.UPGRADING), order=order)
    assert planned(out, old(1), old(2))["writer-1"][0] is Action.REPLACE


# --- a roll-out that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (just_made(container="exited"), "writer-0: it exited"),
        (just_made(phase=Phase.HANDSHAKING, container="exited"), "writer-0: it exited"),
    ],
)
def test_an_instance_that_fails_soon_after_it_was_made_takes_all_back(failing: InstanceState, why: str) -> None:
    found = planned(failing, just_made(1), old(2))
    taken = f"its roll-out is taken back ({why})"
    assert found["writer-0"] == (Action.REPLACE, Cause.CRASH, taken)
    assert found["writer-1"] == (Action.REPLACE, Cause.CRASH, taken)
    assert found["writer-2"] == (Action.HOLD, Cause.CRASH, f"its roll-out was taken back ({why})")


def failing_change(failing: InstanceState) -> Change:
    return next(c for c in plan_all([NEW], failing, old(1), old(2)) if c.instance == "writer-0")


def test_what_is_made_then_is_the_old_one_and_remembers_why() -> None:
    work = failing_change(just_made(container="exited")).spec
    assert (work.manifest.digest, work.image_id, work.revision, work.previous) == (
        OLD.digest,
        "sha256:base1",
        "r0",
        "",
    )
    assert json.loads(work.rejected)["digest"] == NEW.digest
    assert work.manifest.written == OLD.written


def test_one_that_has_worked_for_a_while_or_crashed_before_is_restarted_like_any_other() -> None:
    for state in (just_made(container="exited", age_s=91), just_made(container="exited", crashes=1)):
        assert failing_change(state).action in (Action.RESTART, Action.HOLD)
        assert failing_change(state).cause is Cause.CRASH
        assert "roll-out" not in failing_change(state).reason


def test_it_stays_so_for_this_manifest_and_image_only() -> None:
    refused = json.dumps({"digest": NEW.digest, "image_id": "sha256:base1", "why": "writer-0: it exited"})
    states = [old(0, rejected=refused), old(1), old(2)]
    changes = plan_all([NEW], *states)
    assert {c.action for c in changes} == {Action.HOLD}
    assert {c.concern.type for c in changes if c.concern} == {"RolledBack"}
    third = plan_all([manifest_of(replicas=3, version="3")], *states)
    assert [c.action for c in third] == [Action.REPLACE, Action.HOLD, Action.HOLD]
    other = json.dumps({"digest": NEW.digest, "image_id": "sha256:gone", "why": "x"})
    assert planned(old(0, rejected=other), old(1), old(2))["writer-0"][0] is Action.REPLACE


def test_an_operator_who_releases_it_has_it_tried_again() -> None:
    refused = json.dumps({"digest": NEW.digest, "image_id": "sha256:base1", "why": "writer-0: it exited"})
    order = OrderRecord(name="writer-0", verb="release", actor="uid:0", at="")
    change = failing_change(state_of(record_of(OLD, 0, rejected=refused), order=order))
    assert (change.action, change.spec.order, change.spec.rejected) == (Action.REPLACE, order, "")


# --- in a fleet -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    return FakeFleet(tmp_path)


def commit(fleet: FakeFleet, **spec: Any) -> str:
    return fleet.commit({"agents.d/a.yaml": agent_text(replicas=3, **spec)})


def versions(fleet: FakeFleet) -> list[str]:
    return [json.loads(r.manifest)["spec"].get("version", "1") for _, r in sorted(fleet.instances().items())]


def test_a_roll_out_never_takes_more_than_one_away_and_ends_with_all_renewed(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    commit(fleet, version="2")
    for _ in range(20):
        fleet.run()
        executing = [r for r in fleet.instances().values() if r.phase == "executing"]
        assert len(executing) >= 2
        fleet.agents.step()
    assert versions(fleet) == ["2", "2", "2"]
    assert fleet.settle().is_converged


def test_a_roll_out_that_crashes_goes_back_says_so_and_is_over_with_the_next_commit(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    commit(fleet, version="2")
    fleet.run()
    assert versions(fleet) == ["2", "1", "1"]
    fleet.runtime.crash("writer-0", 3)
    for _ in range(6):
        fleet.run()
        fleet.agents.step()
    assert versions(fleet) == ["1", "1", "1"]
    assert [r.phase for r in fleet.instances().values()] == ["executing"] * 3
    report = fleet.run()
    assert told(report)["RolledBack"] == (
        "the roll-out of writer was taken back (writer-0: it exited with 3); it stays as it was until a commit changes it"
    )
    assert set(actions(report).values()) == {"hold"}
    assert not report.is_converged
    fleet.restart()
    assert set(actions(fleet.run()).values()) == {"hold"}
    commit(fleet, version="3")
    assert "RolledBack" not in told(fleet.settle())
    assert versions(fleet) == ["3", "3", "3"]
    assert {r.rejected for r in fleet.instances().values()} == {""}


def test_a_roll_out_whose_daemon_never_calls_goes_back_too(fleet: FakeFleet) -> None:
    commit(fleet, health={"handshake": "10s"})
    fleet.settle()
    fleet.agents.silent.add("writer-0")
    commit(fleet, health={"handshake": "10s"}, version="2")
    fleet.watch(10, are_calling=True)
    assert versions(fleet)[0] == "2"
    fleet.watch(20, are_calling=True)
    fleet.agents.silent.clear()
    fleet.watch(20, are_calling=True)
    assert versions(fleet) == ["1", "1", "1"]
    assert "no handshake within 10s" in told(fleet.run())["RolledBack"]


def test_a_running_task_ends_before_its_instance_is_replaced(fleet: FakeFleet) -> None:
    files = {"agents.d/a.yaml": agent_text(replicas=2), "tasks.d/t.yaml": task_text("one")}
    fleet.agents.holding.add("one")
    fleet.commit(files)
    for _ in range(8):
        fleet.run()
        fleet.agents.step()
    busy = fleet.task("one").instance
    fleet.commit({**files, "agents.d/a.yaml": agent_text(replicas=2, version="2")})
    for _ in range(20):
        fleet.run()
        fleet.agents.step()
    assert fleet.task("one").instance == busy
    assert json.loads(fleet.instances()[busy].manifest)["spec"].get("version", "1") == "1"
    fleet.agents.holding.clear()
    fleet.settle()
    assert versions(fleet) == ["2", "2"]
    assert [w.generation for w in fleet.agents.executed] == [1]


def test_a_task_that_does_not_end_by_the_drain_deadline_is_handed_back_and_runs_again(fleet: FakeFleet) -> None:
    files = {"agents.d/a.yaml": agent_text(lifecycle={"drainDeadline": "20s"}), "tasks.d/t.yaml": task_text("one")}
    fleet.agents.holding.add("one")
    fleet.commit(files)
    fleet.watch(15, are_calling=True)
    fleet.commit({**files, "agents.d/a.yaml": agent_text(lifecycle={"drainDeadline": "20s"}, version="2")})
    fleet.watch(12, are_calling=True)
    assert change_of(fleet.look(), "agent/writer-0").reason.startswith("draining: 1 running")
    fleet.watch(20, are_calling=True)
    fleet.agents.holding.clear()
    fleet.settle()
    assert fleet.task("one").state == "succeeded"
    assert [w.generation for w in fleet.agents.executed] == [1, 2]
    assert fleet.agents.violations == []
