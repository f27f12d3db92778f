"""Tasks in number: how soon one begins, how many a second, a long queue, and a restart with a thousand in flight.

All but the queue are of a real fleet on the process runtime, and the floor is the same command as a bare process.
"""

import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.figure import Figure, timed
from bench.fleet import Fleet, open_fleet, wait_for
from reconciler.store import records
from reconciler.store.records import TaskRecord
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, hub_text

AGENTS = 10
FEW, MANY, ROUNDS = 100, 10_000, 8
SUBMITTED = 25
TRIVIAL, TURNS, SUBMITTERS = 600, 3, 4
IN_FLIGHT = 1000


def measure() -> list[Figure]:
    """Five figures."""
    return [*_queue(), *_begin(), *_rate(), *_restart()]


# --- a long queue -----------------------------------------------------------------------------------------------------


def _queue() -> list[Figure]:
    """A pass that takes in ten ends and dispatches ten runs, and one after nothing but a write; of each the best.

    Both queues take turns, so that what else the machine does meets both.
    """
    busy: dict[int, list[float]] = {FEW: [], MANY: []}
    still: dict[int, list[float]] = {FEW: [], MANY: []}
    with ExitStack() as stack:
        fleets = {count: stack.enter_context(_queued(count)) for count in (FEW, MANY)}
        for number in range(ROUNDS):
            for count, fleet in fleets.items():
                fleet.store.set_meta("bench", str(number))
                still[count].append(_seconds(fleet))
                fleet.agents.step()
                fleet.run()
                fleet.agents.step()
                busy[count].append(_seconds(fleet))
    return [
        Figure(
            name=f"pass with {MANY:,} waiting tasks, {what}",
            value=min(seconds[MANY]) * 1000,
            unit="ms",
            reference=f"with {FEW}",
            reference_value=min(seconds[FEW]) * 1000,
            budget=1.5,
            by_ratio=True,
        )
        for what, seconds in (("ten begin", busy), ("none begins", still))
    ]


@contextmanager
def _queued(count: int) -> Iterator[FakeFleet]:
    """Ten agents at work, and so many tasks that wait for them."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = FakeFleet(Path(folder))
        agents = {f"agents.d/a{n}.yaml": agent_text(f"a{n}") for n in range(AGENTS)}
        fleet.commit(agents, hub=hub_text(orchestrator={"maxParallelTasks": AGENTS}, loop={"concurrency": 4}))
        fleet.settle()
        records.put_tasks(fleet.store, [_waiting(n) for n in range(count)])
        fleet.run()
        yield fleet
        fleet.store.close()


def _seconds(fleet: FakeFleet) -> float:
    start = perf_counter()
    fleet.loop.run_pass()
    return perf_counter() - start


def _waiting(number: int) -> TaskRecord:
    agent = f"a{number % AGENTS}"
    written = {"labels": {}, "spec": {"agent": agent, "prompt": f"Do number {number}."}}
    return TaskRecord(
        run=f"r{number:05}",
        name=f"t{number:05}",
        spec_digest=f"1:{number}",
        manifest=json.dumps(written),
        source="api",
        state="authorised",
        agent=agent,
        created_at="2026-01-01T11:00:00+00:00",
    )


# --- one task, and many -----------------------------------------------------------------------------------------------


def _begin() -> list[Figure]:
    """From handing a task in to its command's first action, on an idle agent; the command says when that was."""
    with open_fleet(agents=1, each=1, argv=lambda shared: ["sh", "-c", f"date +%s.%N >> {shared}/began"]) as fleet:
        seconds = sorted(_begin_one(fleet, number) for number in range(SUBMITTED))
        bare = median(_bare_begin(fleet.folder) for _ in range(SUBMITTED))
    return [
        Figure(
            name="submit to running, idle agent, median",
            value=median(seconds) * 1000,
            unit="ms",
            reference="bare process",
            reference_value=bare * 1000,
            budget=50.0,
        )
    ]


def _begin_one(fleet: Fleet, number: int) -> float:
    began = fleet.folder / "shared" / "began"
    start = time.time()
    fleet.submit(f"t{number}", "a0")
    fleet.await_states("succeeded", number + 1, 30)
    return float(began.read_text().split()[-1]) - start


def _bare_begin(folder: Path) -> float:
    start = time.time()
    done = subprocess.run(["sh", "-c", "date +%s.%N"], cwd=folder, stdout=subprocess.PIPE, check=True)
    return float(done.stdout) - start


def _rate() -> list[Figure]:
    """From the first task handed in to the last that succeeded, handed in while others run."""
    with open_fleet(agents=AGENTS, each=4, argv=lambda _: ["true"]) as fleet:
        rates = [_rate_once(fleet, turn) for turn in range(TURNS)]
        bare = TRIVIAL / timed(lambda: _bare_tasks(TRIVIAL), runs=TURNS)
    return [
        Figure(
            name="trivial tasks through ten agents",
            value=max(rates),
            unit="1/s",
            reference="bare processes",
            reference_value=bare,
            budget=200.0,
            at_most=False,
        )
    ]


def _rate_once(fleet: Fleet, turn: int) -> float:
    start = perf_counter()
    _submit(fleet, [f"n{turn}-{number}" for number in range(TRIVIAL)])
    fleet.await_states("succeeded", (turn + 1) * TRIVIAL, 120)
    return TRIVIAL / (perf_counter() - start)


def _submit(fleet: Fleet, names: list[str]) -> None:
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        list(pool.map(lambda n: fleet.submit(names[n], f"a{n % AGENTS}"), range(len(names))))


def _bare_tasks(count: int) -> None:
    with ThreadPoolExecutor(AGENTS) as pool:
        list(pool.map(lambda _: subprocess.run(["true"], check=True), range(count)))


# --- a restart --------------------------------------------------------------------------------------------------------


def _restart() -> list[Figure]:
    """The hub is killed while a thousand tasks wait at a gate; then the gate is opened."""
    script = 'echo "$HUB_TASK" | tee -a {0}/began; read line < {0}/gate; echo "$HUB_TASK" >> {0}/ended'
    with open_fleet(
        agents=AGENTS, each=IN_FLIGHT // AGENTS, argv=lambda shared: ["sh", "-c", script.format(shared)]
    ) as fleet:
        shared = fleet.folder / "shared"
        os.mkfifo(shared / "gate")
        for name in ("began", "ended", "gate"):
            path = shared / name
            path.touch()
            path.chmod(0o666)
        without = [_restart_once(fleet) for _ in range(TURNS)]
        names = [f"t{number}" for number in range(IN_FLIGHT)]
        _submit(fleet, names)
        fleet.await_states("running", IN_FLIGHT, 180)
        ready = [_restart_once(fleet) for _ in range(TURNS)]
        _open(shared / "gate", lambda: len(_lines(shared / "ended")) >= IN_FLIGHT)
        fleet.await_states("succeeded", IN_FLIGHT, 180)
        began, ended = Counter(_lines(shared / "began")), Counter(_lines(shared / "ended"))
        attempts = fleet.rows("SELECT count(*) FROM attempt")[0][0]
    assert began == ended == Counter(names), "a task was lost or carried out twice"
    return [
        Figure(
            name="restart with 1,000 tasks in flight, ready",
            value=min(ready),
            unit="s",
            reference="with none",
            reference_value=min(without),
            budget=2.0,
        ),
        Figure(name="… attempts that it took to do each once", value=attempts, unit="", budget=IN_FLIGHT),
    ]


def _restart_once(fleet: Fleet) -> float:
    fleet.kill()
    return fleet.start()


def _open(gate: Path, is_done: Callable[[], bool]) -> None:
    """Let everybody through who waits to open it, as often as somebody may have come too late."""

    def let_through() -> bool:
        with suppress(OSError):
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return is_done()

    wait_for(let_through, 120, "the tasks to end")


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
