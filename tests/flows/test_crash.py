"""SIGKILL at every crash point and at random moments, on both runtimes; the outside checker judges what is left.

Two commits that differ in everything a fleet can differ in are applied in turn, so that each turn creates, updates in
place, replaces, removes and dispatches. The points are those that an undisturbed turn visits.
"""

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.flows.fleet import Fleet, agent_text, make_fleet, need_engine, runtimes, task_text

RANDOM_KILLS = 20
SEED = 20


@pytest.fixture(params=runtimes(), scope="module")
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    need_engine(request.param)
    made = make_fleet(request.param)
    yield made
    made.destroy()


class Turns:
    """Commits side A and side B in turn; each turn has a task of its own."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.number = 0

    def next(self) -> None:
        self.number += 1
        side = self.number % 2
        files = {
            "agents.d/replaced.yaml": agent_text("replaced", argv=f'[python3, "-c", "print({side})"]'),
            "agents.d/updated.yaml": agent_text("updated", memory="128MiB" if side else "160MiB"),
            f"agents.d/side{side}.yaml": agent_text(f"side{side}"),
            "tasks.d/turn.yaml": task_text("turn", "updated", value=self.number),
            "schemas/messages/turn.made.schema.json": json.dumps({"type": "object", "maxProperties": self.number}),
            "policies/task.rego": _policy(self.number),
        }
        self.fleet.commit(files, f"turn {self.number}")

    def settle(self) -> None:
        """Apply undisturbed, and demand what git and the outside checker demand."""
        answer = self.fleet.apply("--tasks")
        assert answer.code == 0, f"turn {self.number}: {answer.out}\n{answer.err}\n{self.fleet.evidence()}"
        assert self.fleet.check() == []
        assert attempts_at_once(self.fleet) == []


def _is_in_router(point: str) -> bool:
    return point.startswith("router.record.")


def _policy(number: int) -> str:
    return f"""\
package hub.task

import rego.v1

decision := {{"allow": true, "reasons": ["turn {number}"]}}
"""


def attempts_at_once(fleet: Fleet) -> list[str]:
    """Runs of which two attempts were open at the same time, by the record."""
    with sqlite3.connect(f"file:{fleet.data}/state.db?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "SELECT run, count(*) FROM attempt WHERE ended_at = '' GROUP BY run HAVING count(*) > 1"
        ).fetchall()
    connection.close()
    return [f"run {run} has {count} open attempts" for run, count in rows]


def end_router(fleet: Fleet) -> None:
    """A fault from outside: the router is gone, so that the next turn starts one."""
    pid_file = fleet.run / "router.pid"
    if pid_file.exists():
        with suppress(ProcessLookupError, ValueError, IndexError):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)


def visited(fleet: Fleet, turns: Turns) -> list[str]:
    """The crash points of two undisturbed turns, once each, in order."""
    log = fleet.folder / "points"
    for _ in range(2):
        turns.next()
        end_router(fleet)
        answer = fleet.apply("--tasks", env={"RECONCILER_CRASH_LOG": str(log)})
        assert answer.code == 0, answer
    return list(dict.fromkeys(log.read_text().split()))


@pytest.mark.slow
def test_a_kill_at_any_point_is_repaired_by_the_next_pass(fleet: Fleet) -> None:
    turns = Turns(fleet)
    turns.next()
    turns.settle()
    points = visited(fleet, turns)
    assert len(points) > 30, points
    hit: list[str] = []
    for point in points:
        turns.next()
        if point.startswith("router."):
            end_router(fleet)
        log = fleet.folder / f"log-{turns.number}"
        limit = ("--timeout", "10") if _is_in_router(point) else ()
        trap = {"RECONCILER_CRASH_AT": point, "RECONCILER_CRASH_LOG": str(log)}
        answer = fleet.apply("--tasks", *limit, env=trap)
        if log.exists() and point in log.read_text().split():
            hit.append(point)
            # The router inherits the trap, so each one that is started falls into it; the hub survives that.
            assert (answer.code == -signal.SIGKILL) is not _is_in_router(point), (point, answer)
        print(f"turn {turns.number}: {point}")
        turns.settle()
    assert sorted(set(points) - set(hit)) == []
    print(f"{len(hit)} crash points hit on {fleet.runtime}")
    _prove_audit(fleet)


@pytest.mark.slow
def test_random_kills_are_repaired(fleet: Fleet) -> None:
    turns = Turns(fleet)
    turns.number = 1000
    chance = random.Random(SEED)
    killed = 0
    while killed < RANDOM_KILLS:
        turns.next()
        process = fleet.start("apply", "--tasks", *fleet.places, *fleet.permission, "--timeout", "60")
        time.sleep(chance.uniform(0.3, 2.5))
        if process.poll() is None:
            process.kill()
            killed += 1
        process.communicate()
        if chance.random() < 0.3:
            end_router(fleet)
        turns.settle()
    _prove_audit(fleet)


def _prove_audit(fleet: Fleet) -> None:
    answer = fleet.call("audit", "verify", *fleet.places)
    assert answer.code == 0, answer
    intents = Path(fleet.data / "state.db")
    assert intents.exists()
