"""RUN/router.pid: which process is the router, by pid and start time, since a pid alone may be another's by now."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

PID_FILE = "router.pid"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """`start_ticks` is field 22 of /proc/<pid>/stat: clock ticks since boot."""

    pid: int
    start_ticks: int


def read_process(pid: int) -> ProcessId | None:
    """The process of that pid, or None where there is none or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else ProcessId(pid=pid, start_ticks=int(fields[19]))


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
