"""What is still alive of an instance whose shim is gone, and its end.

In: how to tell the instance's processes. Effects: SIGKILL to exactly those. A process is the
instance's when its environment says so (`MARKER`), its user id is the instance's own, it is in the
instance's cgroup, or a process of which that is true is above it.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.runtime.shim import (
    Process,
    find_descendants,
    read_bytes,
    read_processes,
    send_signal,
)

MARKER = "RECONCILER_CONTAINER"


def marker(fleet: str, container_id: str) -> str:
    """The value of `MARKER`; container ids begin with the name and `@`."""
    return f"{fleet}/{container_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """`owner` begins the value of `MARKER` in the environment; `uid` is None where it is shared."""

    owner: str
    uid: int | None
    members: Callable[[], set[int]]


def find_survivors(signs: Signs) -> list[Process]:
    """The living processes of the instance, its shim included. One scan of the process table."""
    members = signs.members()
    roots = {p.pid: p for p in read_processes() if p.pid in members or _is_of(p.pid, signs)}
    for process in find_descendants(set(roots)):
        roots.setdefault(process.pid, process)
    roots.pop(os.getpid(), None)
    return [process for process in roots.values() if not process.ended]


def kill_all(find: Callable[[], list[Process]], patience_s: float) -> bool:
    """SIGKILL what `find` finds until that is nothing; False when it still is something after `patience_s`.

    Raises PermissionError.
    """
    deadline = time.monotonic() + patience_s
    pause_s = 0.001
    while found := find():
        if time.monotonic() > deadline:
            return False
        for process in found:
            send_signal(process.pid, process.start, signal.SIGKILL)
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.1)
    return True


def _is_of(pid: int, signs: Signs) -> bool:
    try:
        if signs.uid is not None and _read_uid(pid) == signs.uid:
            return True
        entries = read_bytes(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False
    owner = f"{MARKER}={signs.owner}".encode()
    return any(entry.startswith(owner) for entry in entries)


def _read_uid(pid: int) -> int:
    """The real user id. The owner of the directory in /proc is another for some processes."""
    for line in read_bytes(f"/proc/{pid}/status").split(b"\n"):
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return -1
