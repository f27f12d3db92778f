"""The pass over 1,000 agents on the fake engine: nothing to do, and from a commit to the first mutating call."""

import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from bench.figure import Figure, timed
from bench.repository import HUB, Repository
from reconciler.bootstrap import build_policy
from reconciler.kinds import KINDS
from reconciler.kinds.kind import World
from reconciler.loop.run import Loop
from reconciler.ports import Limits
from reconciler.settings import HubSpec, OperatorSpec
from reconciler.source.repository import LocalRepository
from tests.fakes.fleet import FakeFleet

COUNT = 1000


def measure() -> list[Figure]:
    """Two figures: milliseconds on top of the list call, and milliseconds to the first call."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "repository", COUNT)
        state = Path(folder) / "state"
        state.mkdir()
        fleet = FakeFleet(state)
        fleet.commit({"hub.yaml": HUB})
        return [_noop(fleet, repository), _first_call(fleet, repository)]


def _noop(fleet: FakeFleet, repository: Repository) -> Figure:
    fleet.world = _with_source(fleet, repository)
    fleet.loop = Loop(fleet.world, KINDS)
    fleet.settle()
    assert fleet.loop.run_pass().is_converged
    seconds = timed(fleet.loop.run_pass, runs=15)
    listing = timed(fleet.runtime.list, runs=15)
    return Figure(
        name="no-op pass over 1,000, on top of the list call",
        value=(seconds - listing) * 1000,
        unit="ms",
        reference="list (fake)",
        reference_value=listing * 1000,
        budget=20.0,
    )


def _first_call(fleet: FakeFleet, repository: Repository) -> Figure:
    """One agent's limits change; the clock stops when the engine is asked to change something."""
    seconds: list[float] = []
    for number in range(5):
        called: list[float] = []
        update = fleet.runtime.update

        def watched(container_id: str, limits: Limits, called: list[float] = called, update: object = update) -> None:
            called.append(perf_counter())
            update(container_id, limits)  # type: ignore[operator]

        fleet.runtime.update = watched  # type: ignore[method-assign]
        repository.write(500, memory=f"{100 + number}MiB")
        repository.commit()
        start = perf_counter()
        fleet.loop.run_pass()
        fleet.runtime.update = update  # type: ignore[method-assign]
        seconds.append(called[0] - start)
        fleet.settle()
    return Figure(
        name="commit to first mutating call, 1 of 1,000",
        value=sorted(seconds)[len(seconds) // 2] * 1000,
        unit="ms",
        budget=100.0,
    )


def _with_source(fleet: FakeFleet, repository: Repository) -> World:
    source = LocalRepository(str(repository.folder), "main")
    return replace(fleet.world, source=source, policy=build_policy(HubSpec(), OperatorSpec()))
