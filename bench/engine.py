"""Against a real Docker Engine: converging 40 containers cold, and a pass that finds 100 as they should be.

The floor is the bare Engine API: the same bodies, the same engine, the same run, at the best concurrency.
"""

import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.figure import Figure, timed
from bench.repository import Repository
from reconciler.core.reading import Ok
from reconciler.kinds import KINDS
from reconciler.kinds.kind import World
from reconciler.loop.inspections import Inspections
from reconciler.loop.run import Loop
from reconciler.ports import ContainerSpec, Limits
from reconciler.runtime.docker import DockerRuntime
from reconciler.settings import OperatorSpec
from reconciler.source.repository import LocalRepository
from reconciler.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.egress import FakeEgress
from tests.fakes.policy import FakePolicy
from tests.fakes.router import FakeRouter

CONVERGE, STEADY = 40, 100
CONCURRENCIES = (2, 4, 8)


def measure() -> list[Figure]:
    """Two figures; none where no engine answers or the image is missing."""
    probe = DockerRuntime("bench")
    if not isinstance(probe.resolve_image("agents/base:1"), Ok):
        print("no Docker Engine with agents/base:1: its figures are left out (make image)")
        return []
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        floor, best = min((_bare(Path(folder), c), c) for c in CONCURRENCIES)
        ours = min(_converge(Path(folder) / f"ours{n}", CONVERGE, best) for n in range(2))
        steady = _steady(Path(folder) / "steady")
    return [
        Figure(
            name=f"cold converge of {CONVERGE} containers, rate",
            value=CONVERGE / ours,
            unit="1/s",
            reference=f"bare API at {best}",
            reference_value=CONVERGE / floor,
            budget=0.95,
            at_most=False,
            by_ratio=True,
        ),
        steady,
    ]


def _bare(folder: Path, concurrency: int) -> float:
    """Seconds for create and start alone, with the very bodies that the runtime sends."""
    runtime = DockerRuntime(uuid.uuid4().hex[:8])
    image = runtime.resolve_image("agents/base:1").value  # type: ignore[union-attr]
    socket = folder / "hub"
    socket.mkdir(exist_ok=True)
    specs = [_spec(n, image) for n in range(CONVERGE)]

    def make(spec: ContainerSpec) -> None:
        runtime.start(runtime.create(spec))

    try:
        with ThreadPoolExecutor(concurrency) as pool:
            start = perf_counter()
            list(pool.map(make, specs))
            return perf_counter() - start
    finally:
        _clear(runtime)


def _spec(number: int, image: str) -> ContainerSpec:
    return ContainerSpec(
        name=f"a{number:04}-0",
        image="agents/base:1",
        image_id=image,
        argv=("python3", "-m", "reconciler.agentd"),
        env={"HUB_AGENT": "a", "HUB_INSTANCE": f"a{number:04}-0", "HUB_CONFIG": "{}"},
        labels={},
        limits=Limits(cpus=0.5, memory_bytes=64 * 2**20, pids=50),
        mounts=(),
        disk_bytes=2**30,
        grace_s=1.0,
    )


def _converge(folder: Path, count: int, concurrency: int) -> float:
    """Seconds of the pass that makes a whole fleet, records and all."""
    loop, world = _world(folder, count, concurrency)
    try:
        start = perf_counter()
        report = loop.run_pass()
        seconds = perf_counter() - start
        assert not report.failed, report.failed[0]
        return seconds
    finally:
        loop.close()
        _clear(world.runtime)


def _steady(folder: Path) -> Figure:
    loop, world = _world(folder, STEADY, 4)
    try:
        loop.run_pass()
        seconds = timed(loop.run_pass, runs=9)
        listing = timed(world.runtime.list, runs=9)
    finally:
        loop.close()
        _clear(world.runtime)
    return Figure(
        name=f"no-op pass over {STEADY} real containers",
        value=seconds * 1000,
        unit="ms",
        reference="list call",
        reference_value=listing * 1000,
    )


def _world(folder: Path, count: int, concurrency: int) -> tuple[Loop, World]:
    repository = Repository(folder / "repository", count)
    hub = repository.folder / "hub.yaml"
    hub.write_text(hub.read_text().replace("concurrency: 4", f"concurrency: {concurrency}"))
    repository.commit()
    fleet = uuid.uuid4().hex[:8]
    runtime = DockerRuntime(fleet)
    clock = FakeClock()
    world = World(
        fleet=fleet,
        seal_key=b"k" * 32,
        run=folder / "run",
        state=folder / "state",
        store=_store(folder / "state"),
        runtime=runtime,
        router=FakeRouter(clock),
        egress=FakeEgress(),
        policy=FakePolicy(),
        source=LocalRepository(str(repository.folder), "main"),
        clock=clock,
        inspections=Inspections(runtime),
        operator=OperatorSpec(),
    )
    return Loop(world, KINDS), world


def _store(folder: Path) -> Store:
    folder.mkdir()
    return Store(folder / "state.db")


def _clear(runtime: Any) -> None:
    listed = runtime.list()
    with ThreadPoolExecutor(4) as pool:
        remove: Callable[[str], None] = runtime.remove
        list(pool.map(remove, [c.id for c in listed.value]))
