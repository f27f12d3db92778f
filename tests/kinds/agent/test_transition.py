"""Each step of the lifecycle is one row of the audit log, with what caused it."""

from pathlib import Path

import pytest

from reconciler.api.agents import order_agent
from reconciler.core.caller import Caller
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text
from tests.kinds.agent.lifecycle import broken, steps


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    return FakeFleet(tmp_path)


def test_the_life_of_an_instance_can_be_read_from_the_log(fleet: FakeFleet) -> None:
    other = {"agents.d/b.yaml": agent_text("reader")}
    fleet.commit({"agents.d/a.yaml": agent_text(), **other})
    fleet.settle()
    fleet.clock.advance(100)
    fleet.runtime.crash("writer-0")
    fleet.settle()
    fleet.clock.advance(8 * 3600)
    fleet.settle()
    order_agent(fleet.world, "writer", "drain", Caller(proven="uid:7"), "")
    fleet.run()
    order_agent(fleet.world, "writer", "release", Caller(proven="uid:7"), "")
    fleet.settle()
    fleet.commit(other)
    fleet.settle()
    assert steps(fleet) == [
        ("defined", "activating", "commit"),
        ("activating", "handshaking", "commit"),
        ("handshaking", "executing", "start"),
        ("executing", "handshaking", "crash"),
        ("handshaking", "executing", "start"),
        ("executing", "activating", "ttl"),
        ("activating", "handshaking", "ttl"),
        ("handshaking", "executing", "start"),
        ("executing", "upgrading", "operator"),
        ("upgrading", "executing", "operator"),
        ("executing", "terminating", "commit"),
        ("terminating", "terminated", "commit"),
    ]
    assert broken(fleet) == []


def test_a_row_says_who_committed_and_which_revision(fleet: FakeFleet) -> None:
    revision = fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    row = next(e for e in fleet.audit() if e.action == "phase")
    assert (row.revision, row.actor, row.reason, row.outcome) == (revision, "Ada <ada@example.org>", "new", "noted")
