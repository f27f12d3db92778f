"""Trust follows from what the router and the record tell: counted once, kept over restarts, decayed, and forgiven."""

import json

import pytest

from reconciler.api.agents import order_agent
from reconciler.core.caller import Caller
from reconciler.kinds.kind import Desired
from reconciler.loop.trust import find_distrusted, read_scores, restore_trust
from reconciler.ports import Tally
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, actions, told
from tests.fakes.texts import agent_text, hub_text, task_text

GOOD = {"agents.d/a.yaml": agent_text()}
WINDOW_S = 5.0


def trust(fleet: FakeFleet) -> dict[str, float]:
    return {name: round(r.score, 3) for name, r in records.trust(fleet.store).items()}


def moves(fleet: FakeFleet) -> list[tuple[str, str, str, str]]:
    return [(e.name, e.action, e.before, e.after) for e in fleet.audit() if e.kind == "trust"]


def last_good(fleet: FakeFleet) -> Desired:
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    return desired


def distrusted(fleet: FakeFleet) -> dict[str, str]:
    desired = last_good(fleet)
    scores = read_scores(fleet.store, desired, fleet.clock.now())
    return dict(find_distrusted(fleet.store, desired, scores))


def settled(fleet: FakeFleet, **files: str) -> None:
    fleet.commit({**GOOD, **files})
    fleet.settle()
    fleet.clock.advance(WINDOW_S)


def tell(fleet: FakeFleet, tally: Tally) -> None:
    """The router has counted so much of the writer, and a window later the hub looks."""
    fleet.router.tallies["writer"] = tally
    fleet.clock.advance(WINDOW_S)
    fleet.run()


def test_an_agent_that_did_nothing_wrong_is_not_on_record(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(accepted=1000, limited=3))
    assert trust(fleet) == {}
    assert moves(fleet) == []


def test_what_the_router_counts_moves_trust_once_and_each_cause_is_a_row(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(denied=2, invalid=1, forged=1, floods=1))
    for _ in range(3):
        fleet.clock.advance(WINDOW_S)
        fleet.run()
    assert moves(fleet) == [
        ("writer", "denied", "1.000", "0.960"),
        ("writer", "invalid", "0.960", "0.950"),
        ("writer", "forged", "0.950", "0.750"),
        ("writer", "flood", "0.750", "0.650"),
    ]


def test_a_thousand_denials_in_a_second_are_one_row(fleet: FakeFleet) -> None:
    settled(fleet)
    for count in range(1, 11):
        fleet.router.tallies["writer"] = Tally(denied=count * 100)
        fleet.run()
        fleet.clock.advance(-0.4)
    assert len(moves(fleet)) == 1


def test_neither_a_restart_of_the_hub_nor_of_the_router_counts_twice(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(denied=2))
    fleet.restart()
    tell(fleet, Tally(denied=2))
    assert len(moves(fleet)) == 1
    fleet.router.die()
    fleet.run()
    tell(fleet, Tally(denied=1))
    assert [m[1] for m in moves(fleet)] == ["denied", "denied"]


def test_a_crash_costs_trust_and_success_gives_it_back(fleet: FakeFleet) -> None:
    settled(fleet)
    fleet.runtime.crash("writer-0")
    fleet.settle()
    fleet.clock.advance(WINDOW_S)
    fleet.run()
    assert moves(fleet) == [("writer", "crash", "1.000", "0.950")]
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text("one")})
    fleet.settle()
    fleet.clock.advance(WINDOW_S)
    fleet.run()
    assert [m[1] for m in moves(fleet)] == ["crash", "success"]


def test_trust_comes_back_with_time(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(forged=1))
    fleet.clock.advance(12 * 3600)
    tell(fleet, Tally(forged=1, denied=1))
    assert moves(fleet)[-1] == ("writer", "denied", "0.900", "0.880")


def test_policies_of_tasks_and_of_messages_know_the_score(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(forged=1))
    fleet.run()
    assert fleet.router.config["agents"]["writer"]["trust"] == 0.8
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()})
    fleet.settle()
    ((_, question),) = [d for d in fleet.policy.asked if d[0] == "task"]
    assert question["agent"]["trust"] == pytest.approx(0.8, abs=0.01)
    assert actions(fleet.run(), "router") == {"router": "keep"}


def test_who_is_below_the_threshold_is_wished_into_quarantine_with_the_reason(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(forged=1))
    assert distrusted(fleet) == {}
    tell(fleet, Tally(forged=2))
    assert distrusted(fleet) == {
        "writer": "its trust is 0.60, below 0.7; lastly: messages in another's name (1): trust from 0.80 to 0.60"
    }


def test_another_manifest_is_a_new_start_for_who_was_distrusted_and_only_for_those(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(forged=1))
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    tell(fleet, Tally(forged=2))
    assert trust(fleet)["writer"] == pytest.approx(0.6, abs=0.01)
    fleet.commit({"agents.d/a.yaml": agent_text(version="3")})
    fleet.settle()
    fleet.clock.advance(WINDOW_S)
    fleet.run()
    assert trust(fleet) == {"writer": 1.0}
    assert [(e.action, e.cause) for e in fleet.audit() if e.kind == "trust"][-1] == ("restored", "commit")


def test_an_operator_can_trust_an_agent_again(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(forged=2))
    desired = last_good(fleet)
    restore_trust(fleet.world, desired, "writer", Caller(proven="uid:0"))
    tell(fleet, Tally(forged=2))
    assert trust(fleet) == {"writer": 1.0}
    assert [(e.action, e.actor) for e in fleet.audit() if e.kind == "trust"][-1] == ("restored", "uid:0")
    restore_trust(fleet.world, desired, "nobody", Caller(proven="uid:0"))


def test_an_agent_that_leaves_git_leaves_the_record_of_trust(fleet: FakeFleet) -> None:
    settled(fleet, **{"agents.d/b.yaml": agent_text("reader")})
    tell(fleet, Tally(forged=1))
    fleet.commit({"agents.d/b.yaml": agent_text("reader")})
    fleet.settle()
    fleet.clock.advance(WINDOW_S)
    fleet.run()
    assert trust(fleet) == {}


def test_steps_are_configured_in_git(fleet: FakeFleet) -> None:
    hub = hub_text(orchestrator={"trust": {"steps": {"denied": -0.5}, "neutral": 0.9}, "trustThreshold": 0.5})
    fleet.commit(GOOD, hub=hub)
    fleet.settle()
    tell(fleet, Tally(denied=1))
    assert moves(fleet) == [("writer", "denied", "0.900", "0.400")]
    assert list(distrusted(fleet)) == ["writer"]


def test_a_threshold_above_neutral_is_refused(fleet: FakeFleet) -> None:
    fleet.commit(GOOD, hub=hub_text(orchestrator={"trust": {"neutral": 0.5}}))
    (problem,) = fleet.run().problems
    assert "trustThreshold is 0.7, above trust.neutral of 0.5" in str(problem)


def test_looking_counts_nothing(fleet: FakeFleet) -> None:
    settled(fleet)
    fleet.router.tallies["writer"] = Tally(forged=3)
    fleet.look()
    assert moves(fleet) == []


def test_what_is_on_record_of_an_agent_is_what_was_counted(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(denied=7, floods=1))
    assert json.loads(records.trust(fleet.store)["writer"].counted) == {"denied": 7, "flood": 1}


def release(fleet: FakeFleet) -> None:
    with fleet.store.transaction():
        order_agent(fleet.world, "writer", "release", Caller(proven="uid:0"), "r")
        restore_trust(fleet.world, last_good(fleet), "writer", Caller(proven="uid:0"))


def quarantined(fleet: FakeFleet) -> list[str]:
    return [n for n, r in fleet.instances().items() if r.phase == "quarantined"]


def test_who_is_distrusted_is_isolated_until_an_operator_or_a_commit_ends_it(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(forged=2))
    for _ in range(3):
        fleet.run()
    assert quarantined(fleet) == ["writer-0"]
    assert told(fleet.run()).keys() == {"Quarantined", "Distrusted"}
    assert "writer-0" not in fleet.router.instances
    release(fleet)
    fleet.settle()
    assert (quarantined(fleet), told(fleet.run())) == ([], {})
    tell(fleet, Tally(forged=4))
    fleet.run()
    assert quarantined(fleet) == ["writer-0"]
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    fleet.settle()
    for _ in range(3):
        fleet.clock.advance(WINDOW_S)
        fleet.run()
    assert (quarantined(fleet), told(fleet.run())) == ([], {})


def test_an_agent_that_is_trusted_again_by_time_alone_stays_isolated(fleet: FakeFleet) -> None:
    settled(fleet)
    tell(fleet, Tally(forged=2))
    fleet.run()
    fleet.clock.advance(7 * 86400)
    fleet.run()
    assert distrusted(fleet) == {}
    assert quarantined(fleet) == ["writer-0"]
