"""A process that has imported the program and forks a whole `reconciler` command whenever it is asked to.

What is forked is a process like any other: it is killed, and leaves behind, what the command of a person would. Only
the second that Python takes to import the program is spent once.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_S = 120.0


class Forks:
    """One command at a time. `env` is there when the program is imported: crash points are armed then."""

    def __init__(self, **env: str) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.flows.forks"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a buffer would take two lines at once, and `select` then sees nothing of the second
        )

    def begin(self, arguments: tuple[str, ...], env: Mapping[str, str], out: Path, err: Path) -> int:
        """Start a command with exactly this environment; returns its pid. What it prints goes into the two files."""
        order = {"arguments": arguments, "env": dict(env), "out": str(out), "err": str(err)}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        return int(self._read(START_S))

    def has_ended(self, within_s: float = 0.0) -> bool:
        """Whether `end` would answer at once."""
        assert self._server.stdout is not None
        return bool(select.select([self._server.stdout], [], [], within_s)[0])

    def end(self, timeout_s: float) -> int:
        """The exit code of the command that was begun, negative for a signal; the test fails where there is none."""
        return int(self._read(timeout_s))

    def close(self) -> None:
        try:
            self._server.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.communicate()

    def _read(self, timeout_s: float) -> bytes:
        assert self._server.stdout is not None
        if not self.has_ended(timeout_s):
            pytest.fail(f"no word for {timeout_s} s")
        return self._server.stdout.readline()


@functools.cache
def shared() -> Forks:
    """One for all tests of this run."""
    forks = Forks()
    atexit.register(forks.close)
    return forks


def _serve() -> None:
    """A pid and, when that has ended, its exit code, for each line with a command."""
    _import_all()
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(**json.loads(line))
            return
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(arguments: list[str], env: dict[str, str], out: str, err: str) -> None:
    from reconciler.cli import main

    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    opened = [os.open(os.devnull, os.O_RDONLY), os.open(out, flags), os.open(err, flags)]
    for target, source in enumerate(opened):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["reconciler", *arguments]
    try:
        main()
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else 1)


def leave(code: int) -> None:
    """End as Python does, but leave the memory that all commands share as it is: to tidy it up takes a while each time."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _import_all() -> None:
    import docker  # noqa: F401

    import reconciler.api.app
    import reconciler.api.operations
    import reconciler.api.server
    import reconciler.bootstrap
    import reconciler.loop.inbox
    import reconciler.loop.retention
    import reconciler.loop.serve  # noqa: F401
    from reconciler.cli import COMMANDS
    from reconciler.store.store import Store

    for module, _ in COMMANDS.values():
        importlib.import_module(f"reconciler.cli.{module}")
    with tempfile.TemporaryDirectory() as folder:
        Store(Path(folder) / "state.db").close()


if __name__ == "__main__":
    _serve()
