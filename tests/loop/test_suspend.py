"""Suspended: nothing of it is touched but what protects others, until somebody resumes it or its time is over."""

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.access import RefusedRequest
from reconciler.api.suspensions import list_suspensions, resume_subject, suspend_subject
from reconciler.core.caller import Caller
from reconciler.core.change import Action, Suspended
from reconciler.loop.recorded import plan_against_record
from reconciler.loop.suspend import SUSPENSIONS
from tests.fakes.fleet import FakeFleet, actions, change_of
from tests.fakes.texts import agent_text, task_text

KNOWN = frozenset({"agent/writer", "task/one"})


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    made = FakeFleet(tmp_path)
    made.commit({"agents.d/a.yaml": agent_text(replicas=2)})
    made.settle()
    return made


def suspend(fleet: FakeFleet, **asked: Any) -> Any:
    caller = Caller(proven="uid:7", name="ada", reason=asked.pop("reason", ""))
    return suspend_subject(fleet.world, json.dumps(asked).encode(), caller, KNOWN, "r1")


def resume(fleet: FakeFleet, subject: str) -> Any:
    return resume_subject(fleet.world, subject, Caller(proven="uid:7", name="ada"), "r1")


def conditions(fleet: FakeFleet) -> set[tuple[str, str]]:
    return {(c.subject, c.message) for c in fleet.run().conditions if c.type == "Suspended"}


def test_a_suspended_agent_is_left_as_it_is_and_says_so(fleet: FakeFleet) -> None:
    suspend(fleet, subject="agent/writer", reason="we look at it")
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=3)})
    report = fleet.run()
    assert actions(report) == {"writer-0": "hold", "writer-1": "hold", "writer-2": "hold"}
    held = change_of(report, "agent/writer-2")
    assert held.reason.endswith("suspended by uid:7 (ada): we look at it")
    assert held.suspended == Suspended(by="suspended by uid:7 (ada): we look at it", would=Action.CREATE, reason="new")
    assert sorted(fleet.instances()) == ["writer-0", "writer-1"]
    assert conditions(fleet) == {("agent/writer", "suspended by uid:7 (ada): we look at it")}


def test_what_was_held_is_done_when_it_is_resumed(fleet: FakeFleet) -> None:
    suspend(fleet, subject="agent/writer")
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=3)})
    fleet.run()
    resume(fleet, "agent/writer")
    fleet.settle()
    assert sorted(fleet.instances()) == ["writer-0", "writer-1", "writer-2"]
    assert conditions(fleet) == set()
    rows = [(e.kind, e.name, e.action, e.actor) for e in fleet.audit() if e.action in ("suspend", "resume")]
    assert rows == [("agent", "writer", "suspend", "uid:7 (ada)"), ("agent", "writer", "resume", "uid:7 (ada)")]


def test_it_ends_by_itself_when_its_time_is_over(fleet: FakeFleet) -> None:
    suspend(fleet, subject="fleet", until="10m")
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=3)})
    report = fleet.run()
    assert change_of(report, "agent/writer-2").wait_s == pytest.approx(600, abs=1)
    fleet.clock.advance(601)
    fleet.settle()
    assert "writer-2" in fleet.instances()
    assert list_suspensions(fleet.world) == {"suspensions": []}
    assert [e.actor for e in fleet.audit() if e.action == "resume"] == ["hub"]


def test_a_look_at_the_plan_ends_nothing(fleet: FakeFleet) -> None:
    suspend(fleet, subject="fleet", until="10m")
    before = fleet.store.get_meta(SUSPENSIONS)
    fleet.clock.advance(601)
    fleet.look()
    assert fleet.store.get_meta(SUSPENSIONS) == before


def test_a_plan_by_the_record_alone_says_it_too(fleet: FakeFleet) -> None:
    suspend(fleet, subject="agent/writer")
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=3)})
    fleet.run()
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    plan = plan_against_record(desired, fleet.store, fleet.clock, is_descendant=True)
    assert {c.unit: str(c.action) for c in plan.changes}["agent/writer-2"] == "hold"


def test_a_suspended_fleet_gets_no_tasks_and_a_crash_is_not_repaired(fleet: FakeFleet) -> None:
    suspend(fleet, subject="fleet")
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=2), "tasks.d/t.yaml": task_text("one")})
    fleet.runtime.crash("writer-0")
    for _ in range(3):
        report = fleet.run()
    assert change_of(report, "task/one").action == change_of(report, "agent/writer-0").action == "hold"
    resume(fleet, "fleet")
    fleet.settle()
    assert fleet.task("one").state == "succeeded"


def test_another_suspension_of_the_same_subject_replaces_the_first(fleet: FakeFleet) -> None:
    suspend(fleet, subject="fleet", reason="first")
    suspend(fleet, subject="fleet", reason="second")
    assert [s["reason"] for s in list_suspensions(fleet.world)["suspensions"]] == ["second"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"subject": "writer"}, "is not `fleet` or KIND/NAME"),
        ({"subject": "agent/"}, "is not `fleet` or KIND/NAME"),
        ({"subject": "agent/nobody"}, "there is no agent 'nobody' in git or on record"),
        ({"subject": "fleet", "until": "tomorrow"}, "neither a duration (2h) nor a time with a zone"),
        ({"subject": "fleet", "until": "2026-01-01T00:00:00"}, "neither a duration"),
        ({"subject": "fleet", "until": "2001-01-01T00:00:00Z"}, "is over already"),
        ({"subject": "fleet", "until": "0s"}, "is over already"),
        ({"subject": "fleet", "until": 5}, "neither a duration"),
        ({"subject": "fleet", "forever": True}, "unknown keys: forever"),
        ({"until": "2h"}, 'must be an object with a "subject"'),
    ],
)
def test_what_cannot_be_suspended_is_refused_and_nothing_is_noted(
    fleet: FakeFleet, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(RefusedRequest) as refused:
        suspend(fleet, **asked)
    assert said in str(refused.value)
    assert fleet.store.get_meta(SUSPENSIONS) is None


def test_a_body_that_is_no_json_is_refused(fleet: FakeFleet) -> None:
    with pytest.raises(RefusedRequest, match="not JSON"):
        suspend_subject(fleet.world, b"{", Caller(proven="uid:7"), KNOWN, "r1")


def test_resuming_what_is_not_suspended_says_what_is(fleet: FakeFleet) -> None:
    suspend(fleet, subject="agent/writer")
    with pytest.raises(RefusedRequest, match=r"agent/other is not suspended \(agent/writer\)"):
        resume(fleet, "agent/other")
