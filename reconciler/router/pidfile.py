"""RUN/router.pid: which process is the router, by pid and start time, since a pid alone may be another's by now."""

import contextlib
import os
from pathlib import Path

from reconciler.runtime.pid import ProcessId, read_process

PID_FILE = "router.pid"


def write_pid_file(run: Path, pid: int) -> None:
    """By atomic rename. Raises OSError."""
    process = read_process(pid)
    temporary = run / f".{PID_FILE}.new"
    temporary.write_text(f"{pid} {process.start_ticks if process else 0}\n", encoding="ascii")
    os.replace(temporary, run / PID_FILE)


def read_pid_file(run: Path) -> ProcessId | None:
    """The process that the file names, if it is alive and the same one; else None."""
    with contextlib.suppress(OSError, ValueError):
        pid, start_ticks = (int(word) for word in (run / PID_FILE).read_text(encoding="ascii").split())
        process = read_process(pid)
        if process is not None and process.start_ticks == start_ticks:
            return process
    return None
