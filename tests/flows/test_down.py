"""`down`: it leaves nothing, and says what it waits for where it cannot."""

import sqlite3
from contextlib import closing

import pytest

from tests.flows.fleet import Answer, Fleet, agent_text, eventually
from tests.flows.test_hub import running, settled


def down(fleet: Fleet, *arguments: str) -> Answer:
    return fleet.call("down", *fleet.places, *arguments)


def recorded_runtime(fleet: Fleet, name: str) -> None:
    """Have the record say that the fleet is on another runtime."""
    with closing(sqlite3.connect(fleet.data / "state.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'runtime'", (name,))


@pytest.mark.parametrize("is_hub_running", [True, False])
def test_a_complete_down_leaves_nothing_in_the_run_time_directory(fleet: Fleet, is_hub_running: bool) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a"), "agents.d/b.yaml": agent_text("b")})
    if is_hub_running:
        with running(fleet) as hub:
            eventually(lambda: settled(fleet))
            answer = down(fleet)
            assert hub.wait(180) == 0
    else:
        assert fleet.apply().code == 0
        answer = down(fleet)
    assert answer.code == 0, answer
    assert "down: nothing of the fleet is running" in answer.out
    assert list(fleet.run.parent.iterdir()) == []
    assert fleet.apply().code == 0
    assert fleet.check() == []


def test_an_engine_that_is_away_is_named_at_once_and_waited_for_a_while(processes: Fleet) -> None:
    fleet = processes
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply().code == 0
    before = fleet.state()["instances"]
    recorded_runtime(fleet, "docker")
    answer = down(fleet, "--timeout", "1")
    assert answer.code == 1
    why = "1 instance on record; the docker runtime cannot be read: list containers: the engine at"
    assert " ".join(answer.out.split()).count(f"waiting: {why} unix://{fleet.folder}/no-engine.sock") == 1
    assert f"error: not everything could be removed: {why} " in answer.err
    assert fleet.state()["instances"] == before
    recorded_runtime(fleet, "process")
    assert down(fleet).code == 0
    assert fleet.state()["instances"] == []


def test_a_hub_that_dies_while_it_takes_everything_down_has_not_done_so(processes: Fleet) -> None:
    fleet = processes
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with running(fleet, RECONCILER_CRASH_AT="agent.end.container.before"):
        eventually(lambda: settled(fleet))
        answer = down(fleet)
    assert answer.code == 1
    assert "error: not everything could be removed: 1 instance on record; `reconciler down` goes on" in answer.err
    assert down(fleet).code == 0
    assert list(fleet.run.parent.iterdir()) == []
