"""Loading and planning: 1,000 manifests cold and with one changed; `plan` of 100 as a whole process."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.figure import Figure, timed
from bench.repository import Repository
from reconciler.core.reading import Ok
from reconciler.kinds import KINDS
from reconciler.kinds.tree import ParseCache
from reconciler.loop.desired import load_desired
from reconciler.ports import PolicyEngine
from reconciler.settings import OperatorSpec
from reconciler.source.repository import LocalRepository


def no_engine() -> PolicyEngine:
    """These repositories have no policies, so no engine is ever asked."""
    raise AssertionError


def measure() -> list[Figure]:
    """Three figures."""
    with tempfile.TemporaryDirectory() as folder:
        thousand = Repository(Path(folder) / "thousand", 1000)
        hundred = Repository(Path(folder) / "hundred", 100)
        return [*_load(thousand), *_plan(hundred, Path(folder) / "bytecode")]


def _load(repository: Repository) -> list[Figure]:
    source = LocalRepository(str(repository.folder), "main")

    def load(cache: ParseCache) -> float:
        start = perf_counter()
        head = source.head()
        assert isinstance(head, Ok), head
        read = source.snapshot(head.value.id)
        assert isinstance(read, Ok), read
        snapshot = read.value
        candidate = load_desired(snapshot, KINDS, OperatorSpec(), cache, no_engine)
        seconds = perf_counter() - start
        snapshot.close()
        assert candidate.desired is not None, candidate.problems
        return seconds

    load(ParseCache())
    cold = min(load(ParseCache()) for _ in range(3))
    cache = ParseCache()
    load(cache)
    warm: list[float] = []
    for number in range(11):
        repository.write(500, note=f"turn {number}")
        repository.commit()
        warm.append(load(cache))
    listing = timed(lambda: _git(repository, "ls-tree", "-r", "-l", "-z", "main"))
    return [
        Figure(name="load 1,000 manifests, cold", value=cold, unit="s", budget=1.0),
        Figure(
            name="load 1,000 manifests, one changed",
            value=median(warm),
            unit="s",
            reference="git ls-tree",
            reference_value=listing,
            budget=0.03,
        ),
    ]


def _plan(repository: Repository, bytecode: Path) -> list[Figure]:
    """With all modules compiled by the run that does not count, as they are where a person installed them."""
    command = [sys.executable, "-P", "-m", "reconciler", "plan", str(repository.folder)]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(bytecode)
    seconds = timed(lambda: subprocess.run(command, check=False, capture_output=True, env=env))
    bare = timed(lambda: subprocess.run([sys.executable, "-c", "import pydantic"], check=True, env=env))
    return [
        Figure(
            name="plan of 100 as a whole process",
            value=seconds,
            unit="s",
            reference="import pydantic",
            reference_value=bare,
            budget=0.4,
        )
    ]


def _git(repository: Repository, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(repository.folder), *arguments], check=True, capture_output=True)
