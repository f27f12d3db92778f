"""`PolicyFallback` as the router reports it and as the hub's own engines do: raised once, ended on recovery."""

import pytest

from reconciler.core.condition import Mode
from reconciler.kinds import KINDS
from reconciler.loop.conditions import Fault
from reconciler.loop.run import Loop
from tests.fakes.fleet import FakeFleet, told, transitions
from tests.fakes.texts import agent_text

GONE = "opa: cannot be reached at unix:///run/opa.sock: Connection refused"


@pytest.fixture
def fleet(fleet: FakeFleet) -> FakeFleet:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    return fleet


def test_what_the_router_reports_is_raised_once_and_ended_on_recovery(fleet: FakeFleet) -> None:
    fleet.router.policy_fault = GONE
    for _ in range(3):
        report = fleet.run()
        assert (told(report), report.mode) == ({"PolicyFallback": GONE}, Mode.NORMAL)
    fleet.router.policy_fault = ""
    for _ in range(3):
        assert told(fleet.run()) == {}
    assert transitions(fleet) == [("PolicyFallback", "now true"), ("PolicyFallback", "over")]


def test_router_and_hub_together_are_one_condition(fleet: FakeFleet) -> None:
    own: list[Fault] = [("PolicyFallback", "EngineAway", "opa: no answer within 50 ms")]
    fleet.loop.close()
    fleet.loop = Loop(fleet.world, KINDS, faults=lambda: own)
    fleet.router.policy_fault = GONE
    assert told(fleet.run()) == {"PolicyFallback": "opa: no answer within 50 ms"}
    own.clear()
    assert told(fleet.run()) == {"PolicyFallback": GONE}
    fleet.router.policy_fault = ""
    assert told(fleet.run()) == {}
