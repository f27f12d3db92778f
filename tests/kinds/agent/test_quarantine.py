"""Isolation of what misbehaves: evidence first, then no token, no mailbox and no container that runs; and the way out."""

import json
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.agents import order_agent
from reconciler.core.caller import Caller
from reconciler.core.change import Action, Cause
from reconciler.kinds.agent.evidence import KEPT, LOG_BYTES
from reconciler.kinds.agent.instance import STABLE_S
from reconciler.kinds.agent.state import Phase
from reconciler.store.records import OrderRecord
from tests.fakes.fleet import FakeFleet, change_of, told
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, hub_text, task_text
from tests.kinds.agent.build import manifest_of, plan_one, record_of, state_of

WRITER = manifest_of()
ISOLATED = record_of(WRITER, phase=Phase.QUARANTINED, reason="it exited with 1, 4 times in a row", token_sha256="")


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    return FakeFleet(tmp_path)


UNTRUSTING = hub_text(orchestrator={"trustThreshold": 0})
"""Crashes cost trust, too: here only their number is to count."""


def commit(fleet: FakeFleet, **spec: Any) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text(**spec)}, hub=UNTRUSTING)


def crash_until_isolated(fleet: FakeFleet) -> None:
    """Each time as soon as it runs again."""
    for _ in range(60):
        if fleet.instances()["writer-0"].phase == "quarantined":
            return
        if fleet.containers().get("writer-0") == "running":
            fleet.runtime.crash("writer-0", 3)
        fleet.run()
        fleet.clock.advance(2.0)
    raise AssertionError(fleet.instances()["writer-0"])


def evidence(fleet: FakeFleet) -> list[Path]:
    return sorted((fleet.folder / "evidence" / "writer-0").iterdir())


# --- what is planned --------------------------------------------------------------------------------------------------


def test_it_stays_isolated_and_says_why() -> None:
    change = plan_one(WRITER, state_of(ISOLATED, container="exited"))
    assert (change.action, change.reason) == (Action.HOLD, "in quarantine: it exited with 1, 4 times in a row")
    assert change.concern is not None
    assert (change.concern.subject, change.concern.type) == ("agent/writer-0", "Quarantined")
    assert plan_one(WRITER, state_of(ISOLATED, container="")).action is Action.HOLD


def test_one_that_somebody_started_again_is_stopped_again() -> None:
    change = plan_one(WRITER, state_of(ISOLATED))
    assert (change.action, change.cause) == (Action.QUARANTINE, Cause.DRIFT)


def test_a_commit_that_changes_it_or_an_operator_lets_it_out_and_any_other_commit_does_not() -> None:
    changed = plan_one(manifest_of(version="2"), state_of(ISOLATED, container="exited"))
    assert (changed.action, changed.cause) == (Action.REPLACE, Cause.COMMIT)
    order = OrderRecord(name="writer-0", verb="release", actor="uid:7", at="")
    released = plan_one(WRITER, state_of(ISOLATED, container="exited", order=order))
    assert (released.action, released.cause, released.reason) == (Action.REPLACE, Cause.OPERATOR, "released by uid:7")
    assert released.spec.order == order


def test_an_operator_isolates_what_runs_at_once_whatever_it_does() -> None:
    order = OrderRecord(name="writer-0", verb="quarantine", actor="uid:7", at="")
    change = plan_one(WRITER, state_of(record_of(WRITER), order=order), busy={"writer-0": 1})
    assert (change.action, change.cause, change.reason) == (
        Action.QUARANTINE,
        Cause.OPERATOR,
        "quarantined by uid:7",
    )


def test_a_foreign_container_in_its_place_is_left_alone() -> None:
    change = plan_one(WRITER, state_of(ISOLATED, sealed=False))
    assert change.action is Action.HOLD
    assert "seal" in change.reason


# --- in a fleet -------------------------------------------------------------------------------------------------------


def test_after_too_many_crashes_it_has_no_token_no_mailbox_and_a_container_that_is_kept(fleet: FakeFleet) -> None:
    commit(fleet, lifecycle={"maxCrashes": 2})
    fleet.settle()
    crash_until_isolated(fleet)
    record = fleet.instances()["writer-0"]
    assert (record.token_sha256, record.reason) == ("", "it exited with 3, 3 times in a row")
    assert fleet.containers() == {"writer-0": "exited"}
    assert "writer-0" not in fleet.router.instances
    assert not (fleet.folder / "run" / "secrets" / "writer-0").exists()
    report = fleet.run()
    assert report.done == ()
    assert "writer-0 is in quarantine" in told(report)["Quarantined"]
    fleet.restart()
    assert fleet.run().done == ()
    assert "writer-0" not in fleet.router.instances


def test_crashes_far_apart_count_for_as_long_as_its_container_lives(fleet: FakeFleet) -> None:
    rules = {"maxCrashes": 1, "quarantineThreshold": 2}
    commit(fleet, lifecycle=rules)
    fleet.settle()
    for number in range(2):
        fleet.runtime.crash("writer-0", 3)
        fleet.settle()
        fleet.clock.advance(STABLE_S + 1)
        fleet.watch(12, are_calling=True)
        record = fleet.instances()["writer-0"]
        assert (record.crashes, record.all_crashes, record.phase) == (0, number + 1, "executing")
    fleet.runtime.crash("writer-0", 3)
    fleet.run()
    assert fleet.instances()["writer-0"].phase == "quarantined"
    commit(fleet, lifecycle=rules, version="2")
    fleet.settle()
    assert fleet.instances()["writer-0"].all_crashes == 0


def test_a_kill_amid_isolating_does_not_change_why_it_is_isolated(fleet: FakeFleet, tmp_path: Path) -> None:
    commit(fleet)
    fleet.settle()
    order_agent(fleet.world, "writer-0", "quarantine", Caller(proven="uid:7"), "")
    fleet.end_hub()
    for number in range(1, 100):
        other = fleet.copy(tmp_path.with_name(f"{tmp_path.name}-{number}"), Fuse(number))
        with suppress(KilledError):
            other.run()
        was_killed = other.fuse.is_blown
        other.restart()
        other.run()
        assert other.containers() == {"writer-0": "exited"}
        assert other.instances()["writer-0"].reason == "quarantined by uid:7", other.fuse.visited
        other.end_hub()
        if not was_killed:
            assert number > 5
            return
    raise AssertionError("one pass has no end")


def test_a_commit_lets_it_out_and_the_condition_is_over(fleet: FakeFleet) -> None:
    commit(fleet, lifecycle={"maxCrashes": 1})
    fleet.settle()
    crash_until_isolated(fleet)
    commit(fleet, lifecycle={"maxCrashes": 1}, version="2")
    assert "Quarantined" not in told(fleet.settle())
    record = fleet.instances()["writer-0"]
    assert (record.phase, record.crashes) == ("executing", 0)


def test_the_evidence_has_why_the_container_its_output_and_its_messages_but_no_secret(fleet: FakeFleet) -> None:
    fleet.provider.values["key"] = b"-----BEGIN-----\nhunter2hunter2\n"
    commit(fleet, lifecycle={"maxCrashes": 1}, secrets=["key"], env={"MODE": "plain"})
    fleet.settle()
    token = (fleet.folder / "run" / "secrets" / "writer-0" / "agent-token").read_text()
    for line in ("begun", "oops hunter2hunter2", f"bearer {token}"):
        fleet.runtime.print_line("writer-0", line)
    fleet.runtime.crash("writer-0", 137, oom_killed=True)
    fleet.run()
    token = (fleet.folder / "run" / "secrets" / "writer-0" / "agent-token").read_text()
    fleet.runtime.print_line("writer-0", f"bearer {token}")
    fleet.runtime.crash("writer-0", 137, oom_killed=True)
    fleet.watch(10)
    (folder,) = evidence(fleet)
    texts = {p.name: p.read_text() for p in folder.iterdir()}
    assert sorted(texts) == ["container.json", "messages.json", "output.txt", "reason.json"]
    assert (
        json.loads(texts["reason.json"])["reason"] == "it exited with 137 (killed for want of memory), 2 times in a row"
    )
    assert json.loads(texts["container.json"])["oom_killed"] is True
    assert "begun\noops [secret]\n" in texts["output.txt"]
    assert not any("hunter2" in text or token in text for text in texts.values())
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_evidence_is_bounded_in_size_and_in_number(fleet: FakeFleet) -> None:
    commit(fleet, lifecycle={"maxCrashes": 1})
    fleet.settle()
    for number in range(KEPT + 2):
        for _ in range(40):
            fleet.runtime.print_line("writer-0", f"{number} " + "x" * 20_000)
        crash_until_isolated(fleet)
        commit(fleet, lifecycle={"maxCrashes": 1}, version=f"v{number}")
        fleet.settle()
    assert len(evidence(fleet)) == KEPT
    assert all((f / "output.txt").stat().st_size <= LOG_BYTES for f in evidence(fleet))


def test_what_cannot_be_read_does_not_keep_it_from_being_isolated(fleet: FakeFleet) -> None:
    commit(fleet, lifecycle={"maxCrashes": 1})
    fleet.settle()
    fleet.runtime.crash("writer-0")
    fleet.run()
    fleet.runtime.fail_next("logs", times=9)
    crash_until_isolated(fleet)
    assert "could not be read" in (evidence(fleet)[0] / "output.txt").read_text()


def test_its_tasks_are_handed_back(fleet: FakeFleet) -> None:
    files = {"agents.d/a.yaml": agent_text(lifecycle={"maxCrashes": 1}), "tasks.d/t.yaml": task_text("one")}
    fleet.agents.holding.add("one")
    fleet.commit(files)
    fleet.watch(12, are_calling=True)
    assert fleet.task("one").instance == "writer-0"
    crash_until_isolated(fleet)
    assert (fleet.task("one").state, fleet.task("one").instance) == ("authorised", "")
    assert "in quarantine" in change_of(fleet.look(), "agent/writer-0").reason
