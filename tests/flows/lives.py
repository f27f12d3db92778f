"""Many short lives of a hub: one process imports everything, and forks a whole `reconciler` command for each life.

What is forked is a process like any other: it is killed, and leaves behind, what the command of a person would. Only
the second that Python takes to import the program is spent once.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reconciler.home import is_locked
from tests.flows.fleet import ROOT, Answer, Fleet, eventually


class Lives:
    """One life at a time, all with the same environment. `said` is what the last one printed."""

    def __init__(self, fleet: Fleet, **env: str) -> None:
        self.said, self._data = fleet.folder / "said", fleet.data
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.flows.lives", str(self.said)],
            cwd=ROOT,
            env={**fleet.environment(), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def begin(self, *arguments: str) -> int:
        """Start a command; returns its pid."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(arguments) + "\n")
        return int(self._read(60.0))

    def end(self, timeout_s: float = 90.0) -> Answer:
        """Wait for the command that was begun; the test fails where it does not end.

        One that is killed while it starts a program leaves its lock to that, until the program runs.
        """
        code = int(self._read(timeout_s))
        eventually(lambda: not is_locked(self._data), within_s=10.0, step_s=0.01)
        return Answer(code=code, out=self.said.read_text(errors="replace"), err="")

    def has_ended(self, within_s: float = 0.0) -> bool:
        """Whether `end` would answer at once."""
        assert self._server.stdout is not None
        return bool(select.select([self._server.stdout], [], [], within_s)[0])

    def live(self, *arguments: str) -> Answer:
        self.begin(*arguments)
        return self.end()

    def close(self) -> None:
        try:
            self._server.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.communicate()

    def _read(self, timeout_s: float) -> str:
        assert self._server.stdout is not None
        if not self.has_ended(timeout_s):
            pytest.fail(f"no word for {timeout_s} s:\n{self.said.read_text(errors='replace')}")
        return self._server.stdout.readline()


def _serve(said: str) -> None:
    """A pid and, when that has ended, its exit code (negative: the signal), for each line of arguments."""
    _import_all()
    for line in sys.stdin:
        Path(said).write_text("")
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line), said)
            return
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(arguments: list[str], said: str) -> None:
    from reconciler.cli import main

    out = os.open(said, os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, out), (2, out)):
        os.dup2(source, target)
    os.closerange(3, max(nothing, out) + 1)
    sys.argv = ["reconciler", *arguments]
    main()


def _import_all() -> None:
    import docker  # noqa: F401

    import reconciler.api.app
    import reconciler.api.operations
    import reconciler.api.server
    import reconciler.bootstrap
    import reconciler.cli.run
    import reconciler.loop.inbox
    import reconciler.loop.retention
    import reconciler.loop.serve  # noqa: F401
    from reconciler.store.store import Store

    with tempfile.TemporaryDirectory() as folder:
        Store(Path(folder) / "state.db").close()


if __name__ == "__main__":
    _serve(sys.argv[1])
