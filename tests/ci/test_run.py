"""`.ci/run` on a small tree of tests: which failures get a second verdict, and what it says of them.

The script and pytest are the real ones; engine, packages and `make` are commands that only say yes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAY_YES = ("apt-get", "dockerd", "make", "python3", "opa", "claude")
PASSES = "def test_passes():\n    pass\n"
FAILS = "def test_fails():\n    assert False\n"
FAILS_ONCE = """
import pathlib, pytest

@pytest.mark.parametrize("case", {cases})
def test_fails_once(case):
    mark = pathlib.Path(__file__).with_name(f"{{hash(case)}}.ran")
    if not mark.exists():
        mark.touch()
        raise AssertionError("the first time")
    {then}
"""


def fails_once(*cases: object, then: str = "pass") -> str:
    return FAILS_ONCE.format(cases=list(cases), then=then)


class Tree:
    """A tree with `.ci/run` and tests of its own."""

    def __init__(self, folder: Path) -> None:
        self.top = folder / "tree"
        self.bin = folder / "bin"
        self.work = folder / "work"
        for new in (self.top / ".ci", self.top / ".venv/bin", self.bin, self.work):
            new.mkdir(parents=True)
        (self.top / ".ci/run").write_bytes((ROOT / ".ci/run").read_bytes())
        (self.top / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "-p no:schemathesis"\n')
        self._command(self.top / ".venv/bin/python", f'exec {sys.executable} "$@"')
        for name in SAY_YES:
            self._command(self.bin / name, "exit 0")
        self._command(self.bin / "id", "echo 0")
        self._command(self.bin / "dpkg-query", "echo installed")
        self._command(self.bin / "unshare", "exit 1")
        for part in ("flows", "core", "chaos"):
            self.test(f"{part}/test_steady.py", PASSES)

    def _command(self, path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def test(self, path: str, text: str) -> None:
        target = self.top / "tests" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def run(self) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.top),
            "PYTHONHASHSEED": "0",
            "RECONCILER_CI_DIR": str(self.work),
            "RECONCILER_OPA": str(self.bin / "opa"),
            "RECONCILER_CLAUDE": str(self.bin / "claude"),
        }
        return subprocess.run(
            ["bash", str(self.top / ".ci/run")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def unsteady(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("ci: unsteady: ")]


def second_runs(done: subprocess.CompletedProcess[str]) -> int:
    return done.stdout.count("get their verdict alone")


def test_where_all_tests_pass_none_runs_twice(tree: Tree) -> None:
    done = tree.run()
    assert done.returncode == 0, done.stdout
    assert (second_runs(done), unsteady(done)) == (0, [])
    assert "all is well" in done.stdout
    assert list(tree.work.iterdir()) == []


def test_what_passes_alone_is_named_and_the_run_goes_on(tree: Tree) -> None:
    tree.test("flows/test_hub.py", fails_once(1))
    tree.test("core/test_names.py", fails_once("a b", "c::d[e]"))
    tree.test("chaos/test_faults.py", fails_once(1))
    done = tree.run()
    assert done.returncode == 0, done.stdout
    assert second_runs(done) == 3
    assert unsteady(done) == [
        "ci: unsteady: tests/flows/test_hub.py::test_fails_once[1]",
        "ci: unsteady: tests/core/test_names.py::test_fails_once[a b]",
        "ci: unsteady: tests/core/test_names.py::test_fails_once[c::d[e]]",
        "ci: unsteady: tests/chaos/test_faults.py::test_fails_once[1]",
    ]
    assert done.stdout.count("AssertionError: the first time") >= 4


def test_what_fails_alone_too_fails_the_run(tree: Tree) -> None:
    tree.test("chaos/test_faults.py", fails_once(1) + FAILS)
    done = tree.run()
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert (second_runs(done), unsteady(done)) == (1, [])


def test_what_is_skipped_alone_has_not_passed(tree: Tree) -> None:
    tree.test("core/test_names.py", fails_once(1, then="pytest.skip('not now')"))
    done = tree.run()
    assert done.returncode == 1
    assert (second_runs(done), unsteady(done)) == (1, [])


def test_more_than_a_few_failures_get_no_second_verdict(tree: Tree) -> None:
    tree.test("flows/test_hub.py", fails_once(*range(6)))
    tree.test("core/test_names.py", fails_once(*range(5)))
    done = tree.run()
    assert done.returncode == 1
    assert second_runs(done) == 1
    assert len(unsteady(done)) == 5


def test_a_part_that_was_cut_short_gets_no_second_verdict(tree: Tree) -> None:
    tree.test("flows/test_hub.py", fails_once(1) + "\n\ndef test_stops():\n    pytest.exit('enough')\n")
    tree.test("core/test_names.py", "import what_is_not_there\n")
    done = tree.run()
    assert done.returncode == 1
    assert (second_runs(done), unsteady(done)) == (0, [])
