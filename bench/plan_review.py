"""The check of a pull request: `plan --base --head` on 1,000 agents as a process, against parsing the two trees."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figure import Figure, timed
from bench.manifests import no_engine
from bench.repository import Repository
from reconciler.core.reading import Ok
from reconciler.kinds import KINDS
from reconciler.kinds.tree import ParseCache
from reconciler.loop.desired import load_desired
from reconciler.settings import OperatorSpec
from reconciler.source.repository import LocalRepository

COUNT = 1000
CHANGED = 10


def measure() -> list[Figure]:
    """One figure; ten agents differ between the two revisions."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "repository", COUNT)
        for number in range(CHANGED):
            repository.write(number, note="changed")
        repository.commit()
        return [_plan(repository, Path(folder) / "bytecode")]


def _plan(repository: Repository, bytecode: Path) -> Figure:
    """With all modules compiled by the run that does not count, as they are where a person installed them."""
    command = [sys.executable, "-P", "-m", "reconciler", "plan", str(repository.folder)]
    command += ["--base", "HEAD~1", "--head", "HEAD", "-o", "markdown"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(bytecode)

    def plan() -> None:
        done = subprocess.run(command, check=False, capture_output=True, env=env)
        assert done.returncode == 2, done.stderr.decode()
        assert f"{CHANGED} to update" in done.stdout.decode()

    return Figure(
        name="plan --base --head, 1,000 agents",
        value=timed(plan),
        unit="s",
        reference="parse both trees",
        reference_value=timed(lambda: _parse(repository)),
        budget=1.0,
    )


def _parse(repository: Repository) -> None:
    source, cache = LocalRepository(str(repository.folder), "main"), ParseCache()
    for revision in ("HEAD~1", "HEAD"):
        read = source.snapshot(revision)
        assert isinstance(read, Ok), read
        candidate = load_desired(read.value, KINDS, OperatorSpec(), cache, no_engine)
        read.value.close()
        assert candidate.desired is not None, candidate.problems
    source.close()
