"""Rollbacks over the operator plane: made, listed, shown in the status, and taken back."""

from pathlib import Path

from reconciler.settings import OperatorSpec
from tests.api.test_callers import ALICE, Plane
from tests.fakes.texts import agent_text


def test_a_rollback_is_made_listed_shown_and_taken_back(tmp_path: Path) -> None:
    plane = Plane(tmp_path, OperatorSpec())
    fleet = plane.fleet
    good = fleet.commit({"agents.d/a.yaml": agent_text(version="1")})
    fleet.run()
    bad = fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    fleet.run()
    code, made = plane.call("POST", "/api/v1/rollbacks", {"subject": "fleet", "to": good}, **ALICE)
    assert (code, made["to"], made["since"], made["actor"]) == (201, good, bad, "uid:7 (alice)")
    assert plane.call("GET", "/api/v1/rollbacks")[1] == {"rollbacks": [made]}
    plane.hub.last = fleet.run()
    status = plane.call("GET", "/status")[1]
    assert status["revision"]["applied"] == good
    assert status["revision"]["skipped"] == status["revision"]["candidate"] == bad
    assert status["rollbacks"] == [made]
    assert plane.call("DELETE", "/api/v1/rollbacks/fleet", **ALICE) == (200, made)
    code, problem = plane.call("DELETE", "/api/v1/rollbacks/fleet", **ALICE)
    assert (code, problem["detail"]) == (404, "fleet is not rolled back (nothing is)")
    fleet.end_hub()


def test_without_a_reason_that_is_required_nothing_goes_back(tmp_path: Path) -> None:
    plane = Plane(tmp_path, OperatorSpec.model_validate({"audit": {"reasonRequired": True}}))
    code, problem = plane.call("POST", "/api/v1/rollbacks", {"subject": "fleet", "to": "x"})
    assert (code, "--reason TEXT" in problem["detail"]) == (400, True)
    assert plane.call("DELETE", "/api/v1/rollbacks/fleet")[0] == 400
    plane.fleet.end_hub()
