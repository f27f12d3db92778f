"""What operators want of agents: noted in one row each, carried out by the next passes, and refused where it is idle."""

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.access import RefusedRequest
from reconciler.api.agents import order_agent
from reconciler.api.operations import HubOperations
from reconciler.api.suspensions import suspend_subject
from reconciler.core.caller import Caller
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.loop.suspend import read_suspensions
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, actions, change_of
from tests.fakes.texts import agent_text, task_text


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    made = FakeFleet(tmp_path)
    made.commit({"agents.d/a.yaml": agent_text(replicas=2)})
    made.settle()
    return made


def order(fleet: FakeFleet, name: str, verb: str) -> Any:
    return order_agent(fleet.world, name, verb, Caller(proven="uid:7"), "r1")


def tokens(fleet: FakeFleet) -> dict[str, str]:
    return {name: r.token_sha256 for name, r in fleet.instances().items()}


def test_a_restart_is_for_all_instances_but_one_after_the_other(fleet: FakeFleet) -> None:
    before = tokens(fleet)
    assert order(fleet, "writer", "restart") == {
        "agent": "writer",
        "instances": ["writer-0", "writer-1"],
        "refused": {},
    }
    assert actions(fleet.run()) == {"writer-0": "restart", "writer-1": "hold"}
    assert fleet.instances()["writer-1"].phase == "executing"
    fleet.settle()
    after = tokens(fleet)
    assert all(after[name] != before[name] for name in before)
    assert records.orders(fleet.store) == {}
    assert [r.crashes for r in fleet.instances().values()] == [0, 0]
    assert [e.actor for e in fleet.audit() if e.action == "restart" and e.reason == "asked for"] == ["uid:7", "uid:7"]


def test_a_restart_waits_for_running_tasks(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("one")
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=2), "tasks.d/t.yaml": task_text("one")})
    for _ in range(6):
        fleet.run()
        fleet.agents.step()
    busy = fleet.task("one").instance
    order(fleet, busy, "restart")
    for _ in range(4):
        fleet.run()
        fleet.agents.step()
    assert change_of(fleet.look(), f"agent/{busy}").reason.startswith("draining: 1 running")
    fleet.agents.holding.clear()
    fleet.settle()
    assert [w.generation for w in fleet.agents.executed] == [1]
    assert records.orders(fleet.store) == {}


def test_a_drained_instance_stays_so_until_it_is_released(fleet: FakeFleet) -> None:
    order(fleet, "writer-0", "drain")
    fleet.run()
    fleet.watch(10, are_calling=True)
    assert fleet.instances()["writer-0"].phase == "upgrading"
    change = change_of(fleet.look(), "agent/writer-0")
    assert (str(change.action), change.reason) == ("hold", "drained by uid:7; until it is released")
    fleet.runtime.crash("writer-0")
    fleet.watch(10, are_calling=True)
    fleet.restart()
    fleet.watch(5, are_calling=True)
    assert fleet.instances()["writer-0"].phase == "upgrading"
    files = {"agents.d/a.yaml": agent_text(replicas=2), "tasks.d/t.yaml": task_text("one")}
    fleet.commit(files)
    for _ in range(8):
        fleet.run()
        fleet.agents.step()
    assert fleet.task("one").instance == "writer-1"
    order(fleet, "writer-0", "release")
    fleet.settle()
    assert fleet.instances()["writer-0"].phase == "executing"


def test_an_instance_is_isolated_and_released_by_the_operator(fleet: FakeFleet) -> None:
    order(fleet, "writer-0", "quarantine")
    fleet.run()
    assert fleet.instances()["writer-0"].phase == "quarantined"
    assert fleet.containers() == {"writer-0": "exited", "writer-1": "running"}
    assert (fleet.folder / "evidence" / "writer-0").exists()
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=2), "agents.d/b.yaml": agent_text("reader")})
    fleet.watch(5, are_calling=True)
    assert fleet.instances()["writer-0"].phase == "quarantined"
    for verb in ("restart", "drain", "quarantine"):
        with pytest.raises(RefusedRequest, match="quarantine"):
            order(fleet, "writer-0", verb)
    order(fleet, "writer-0", "release")
    fleet.settle()
    assert fleet.instances()["writer-0"].phase == "executing"


def test_a_roll_out_that_was_taken_back_is_tried_again_on_release(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=2, version="2")})
    fleet.run()
    fleet.runtime.crash("writer-0")
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    order(fleet, "writer-1", "release")
    fleet.settle()
    written = [json.loads(r.manifest)["spec"]["version"] for r in fleet.instances().values()]
    assert written == ["2", "2"]
    assert records.orders(fleet.store) == {}


def test_what_there_is_nothing_to_do_for_is_refused_with_the_reason(fleet: FakeFleet) -> None:
    with pytest.raises(RefusedRequest, match="no agent or instance 'nobody'") as refused:
        order(fleet, "nobody", "restart")
    assert refused.value.status == 404
    with pytest.raises(RefusedRequest, match="writer-0: there is nothing to release it from"):
        order(fleet, "writer", "release")


def test_what_is_asked_for_while_a_pass_is_under_way_is_not_lost(fleet: FakeFleet) -> None:
    order(fleet, "writer-0", "restart")
    planned = fleet.look()
    assert change_of(planned, "agent/writer-0").spec.order.verb == "restart"
    fleet.clock.advance(1)
    order(fleet, "writer-0", "quarantine")
    records.delete_order(fleet.store, change_of(planned, "agent/writer-0").spec.order)
    assert records.orders(fleet.store)["writer-0"].verb == "quarantine"


def test_explaining_a_suspended_agent_says_by_whom_and_what_would_be_done(fleet: FakeFleet) -> None:
    hub = Hub(fleet.loop, fleet.world, KINDS, fleet.inspections)
    plane = HubOperations(hub, fleet.loop, fleet.world, lambda _drain: None)
    asked = json.dumps({"subject": "agent/writer", "until": "10m"}).encode()
    caller = Caller(proven="uid:7", reason="we look at it")
    suspend_subject(fleet.world, asked, caller, frozenset({"agent/writer"}), "r1")
    (by,) = map(str, read_suspensions(fleet.store))
    assert by.startswith("suspended by uid:7 until ")
    note = f"it is {by}, and nothing would be done without that."
    for name in ("writer", "writer-1"):
        assert plane.explain_agent(name)["why"].endswith(note)
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=2, version="2")})
    fleet.run()
    would = f"is {by}; without that the hub would replace"
    assert plane.explain_agent("writer-0")["why"] == f"writer-0 runs, and {would} it: changed in git."
    assert plane.explain_agent("writer")["why"] == f"agent writer {would} writer-0: changed in git."
