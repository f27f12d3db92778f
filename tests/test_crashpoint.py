"""A point kills the process that it is armed in, where it was told to, and is nothing in all others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from reconciler import crashpoint

PROGRAM = """
from reconciler.crashpoint import effect, point
for name in "abab":
    point(name)
print(effect("c", int, "7"))
"""


def run(**armed: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(Path(crashpoint.__file__).parents[1]), **armed},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_unarmed_it_does_nothing() -> None:
    assert run() == (0, "7\n")


def test_it_kills_at_the_visit_that_was_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(RECONCILER_CRASH_AT="b:2", RECONCILER_CRASH_LOG=str(log)) == (-signal.SIGKILL, "")
    assert log.read_text().split() == ["a", "b", "a", "b"]
    assert run(RECONCILER_CRASH_AT="b:3") == (0, "7\n")


def test_it_kills_once_at_every_point_over_as_many_lives(tmp_path: Path) -> None:
    known = tmp_path / "known"
    lives = [run(RECONCILER_CRASH_ONCE=str(known)) for _ in range(5)]
    assert lives == [(-signal.SIGKILL, "")] * 4 + [(0, "7\n")]
    assert known.read_text().split() == ["a", "b", "c.before", "c.after"]
