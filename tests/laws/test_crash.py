"""A kill after any effect is repaired by the next hub: the same two revisions, killed at every effect in turn.

A kill between two effects leaves the same world wherever between them it comes, so each effect is followed by one kill,
and the first is preceded by one. The real thing, with SIGKILL and real processes, is in `tests/flows/test_crash.py`.
"""

from pathlib import Path

import pytest

from tests.fakes.fleet import FakeFleet
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text
from tests.laws.fleets import HUB, RandomFleet
from tests.laws.test_converge import check

REGO = 'package hub.task\n\nimport rego.v1\n\ndecision := {{"allow": true, "reasons": ["{0}"]}}\n'


def side(name: str) -> RandomFleet:
    """Two sides that differ in everything a fleet can differ in; each has a task of its own."""
    task = f'apiVersion: reconciler/v1\nkind: Task\nmetadata: {{name: turn}}\nspec: {{agent: kept, prompt: "{name}"}}\n'
    return RandomFleet(
        {
            "agents.d/kept.yaml": agent_text("kept", workspace={"source": "repository"}),
            "agents.d/limits.yaml": agent_text("limits", resources={"pids": 60 if name == "b" else 50}),
            "agents.d/replaced.yaml": agent_text("replaced", version=name),
            f"agents.d/{name}.yaml": agent_text(f"only-{name}"),
            "tasks.d/turn.yaml": task,
            "schemas/messages/x.y.schema.json": f'{{"title": "{name}"}}',
            "policies/task.rego": REGO.format(name),
        }
    )


SIDE_A, SIDE_B = side("a"), side("b")


class Turn:
    """A fleet that is about to go from side A to side B, to be copied before each kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._copies = 0
        self._template = FakeFleet(folder / "template")
        self._template.commit(SIDE_A.files, hub=HUB)
        self._template.settle(80)
        self._template.commit(SIDE_B.files, hub=HUB)
        self._template.runtime.crash("kept-0")
        self._template.router.die()
        self._template.end_hub()

    def begin(self, fuse: Fuse) -> FakeFleet:
        """Side A has converged and B is committed; one of A's containers has crashed, and the router is gone."""
        self._copies += 1
        return self._template.copy(self._folder / str(self._copies), fuse)


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    (tmp_path / "template").mkdir()
    return Turn(tmp_path)


def kill_at(turn: Turn, number: int) -> str:
    """Kill the hub at this visit, let the next one converge, and check. Returns the place."""
    fleet = turn.begin(Fuse(number))
    with pytest.raises(KilledError):
        fleet.settle(80)
    place = fleet.fuse.visited[-1]
    fleet.restart()
    fleet.clock.advance(1)
    fleet.settle(80)
    check(fleet, SIDE_B)
    assert {t.state for t in fleet.tasks()} <= {"succeeded", "cancelled"}, place
    fleet.end_hub()
    return place


def test_a_kill_after_any_effect_is_repaired_by_the_next_hub(turn: Turn) -> None:
    undisturbed = turn.begin(Fuse())
    undisturbed.settle(80)
    check(undisturbed, SIDE_B)
    visited = list(undisturbed.fuse.visited)
    undisturbed.end_hub()
    assert {p.split(".")[0] for p in visited} == {"store", "router", "runtime"}
    numbers = [1, *(n for n, place in enumerate(visited, 1) if place.endswith(".after"))]
    assert len(numbers) > 80
    killed = {kill_at(turn, number) for number in numbers}
    assert {p for p in visited if p.endswith(".after")} <= killed
