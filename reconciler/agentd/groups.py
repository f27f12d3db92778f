"""Process groups of running commands: starts them, and lets nothing they started stay behind.

A command leads a session of its own, so that one signal reaches it and its children. Children that
left the group are found in /proc: by their parents, by the session, or by the task directory in
their environment. The daemon makes itself the reaper of orphans (PR_SET_CHILD_SUBREAPER), so that
also a daemonised child stays below it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple

from reconciler.agentd.turn import Turn

_PR_SET_CHILD_SUBREAPER = 36
_ROUND_S = 0.01
_GIVE_UP_S = 2.0
_PIECE_BYTES = 4096
_MOST_STAT_BYTES = 4096
_MOST_ENVIRON_BYTES = 8 * 2**20
_ANY_DEAD = os.WEXITED | os.WNOWAIT | os.WNOHANG


@dataclass(frozen=True)
class Child:
    """A started command.

    `pid` is also its process group and session until `ProcessGroups.end` has reaped it.
    """

    pid: int
    marker: str
    process: subprocess.Popen[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]


class _Process(NamedTuple):
    pid: int
    parent: int
    session: int
    is_zombie: bool


def become_reaper() -> bool:
    """Have orphaned descendants become children of this process. False where it cannot be had."""
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


class ProcessGroups:
    """The commands that run now. From any thread.

    `is_reaper` says that `become_reaper` took effect and that all children of this process are
    started here; so what is below it and belongs to nobody is a stray of the only command.
    """

    def __init__(self, *, is_reaper: bool) -> None:
        self.is_reaper = is_reaper
        self.turn = Turn()
        self._lock = threading.Lock()
        self._marker_by_leader: dict[int, str] = {}

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        stdin: IO[bytes],
        marker: str,
    ) -> Child:
        """Start `argv` in a session of its own.

        `marker` is an `env` value no other command has. Raises OSError.
        """
        with self._lock:
            process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
            self._marker_by_leader[process.pid] = marker
        if process.stdout is None or process.stderr is None:
            raise AssertionError("both are pipes")
        return Child(
            pid=process.pid,
            marker=marker,
            process=process,
            stdout=process.stdout,
            stderr=process.stderr,
        )

    def terminate(self, child: Child) -> None:
        """Ask the group to end."""
        _signal_group(child.pid, signal.SIGTERM)

    def kill(self, child: Child) -> None:
        """SIGKILL to the group and to what has left it.

        Returns when that is dead, or after two seconds.

        The leader must not have been reaped yet: until then its number cannot become that of a
        stranger.
        """
        _signal_group(child.pid, signal.SIGKILL)
        deadline = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < deadline and not self._has_left_nothing(child):
            strays = [p for p in self._members(child) if p.pid != child.pid]
            self._reap(strays)
            alive = [p for p in strays if not p.is_zombie]
            if not alive:
                return
            for process in alive:
                _signal(process.pid, signal.SIGKILL)
            time.sleep(_ROUND_S)

    def end(self, child: Child) -> int:
        """Reap the leader, which has ended. Returns its status as `Popen.returncode`."""
        with self._lock:
            status = child.process.wait()
            self._marker_by_leader.pop(child.pid, None)
        return status

    def kill_everything(self) -> None:
        """SIGKILL to all that is below this daemon, without waiting."""
        with self._lock:
            by_pid = {p.pid: p for p in _list_processes()}
            for process in by_pid.values():
                _owner, is_below_us = _find_ancestor(process, by_pid, self._marker_by_leader)
                if is_below_us:
                    _signal(process.pid, signal.SIGKILL)

    def reap_orphans(self) -> None:
        """Take the exit statuses of dead orphans, which else use up the process limit.

        A dead leader, which is its watcher's to reap, hides those behind it until the next call.
        """
        with self._lock, contextlib.suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, _ANY_DEAD)) is not None:
                if dead.si_pid in self._marker_by_leader:
                    return
                os.waitpid(dead.si_pid, os.WNOHANG)

    def _has_left_nothing(self, child: Child) -> bool:
        """Whether the leader has ended and this daemon, as the reaper, has no children but leaders; False: look closer.

        What a dead leader leaves behind becomes ours the moment it dies.
        """
        if not self.is_reaper or os.waitid(os.P_PID, child.pid, _ANY_DEAD) is None:
            return False
        with self._lock:
            children = _list_children()
            return children is not None and children <= self._marker_by_leader.keys()

    def _reap(self, processes: Sequence[_Process]) -> None:
        with self._lock:
            for process in processes:
                if process.is_zombie and process.parent == os.getpid():
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)

    def _members(self, child: Child) -> list[_Process]:
        """All processes that belong to the command.

        Where it is the only one, also those nobody can be told to own.
        """
        with self._lock:
            leaders = dict(self._marker_by_leader)
            by_pid = {p.pid: p for p in _list_processes()}
        is_alone = self.is_reaper and len(leaders) == 1
        members = []
        for process in by_pid.values():
            owner, is_below_us = _find_ancestor(process, by_pid, leaders)
            if not owner and (is_below_us or not self.is_reaper):
                owner = _find_mark(process, leaders)
            if owner == child.pid or (not owner and is_alone and is_below_us):
                members.append(process)
        return members


def _find_ancestor(process: _Process, by_pid: Mapping[int, _Process], leaders: Mapping[int, str]) -> tuple[int, bool]:
    """The leader a process descends from (0 for none), and whether it is below this daemon."""
    me = os.getpid()
    at = by_pid.get(process.parent) if process.pid not in leaders else process
    for _ in by_pid:
        if at is None or at.pid == me:
            break
        if at.pid in leaders:
            return at.pid, True
        at = by_pid.get(at.parent)
    return 0, at is not None and at.pid == me


def _find_mark(process: _Process, leaders: Mapping[int, str]) -> int:
    """The leader whose session or marker a process carries; 0 for none."""
    if process.session in leaders:
        return process.session
    environ = _read_bytes(f"/proc/{process.pid}/environ", _MOST_ENVIRON_BYTES).split(b"\0")
    for leader, marker in leaders.items():
        if any(entry.endswith(b"=" + os.fsencode(marker)) for entry in environ):
            return leader
    return 0


def _list_children() -> set[int] | None:
    """The children of this process, dead ones too, while nobody reaps any; None where the kernel does not tell.

    They belong to threads. One that ends passes its own on to the main thread, which is read last.
    """
    me = str(os.getpid())
    try:
        others = [t for t in os.listdir("/proc/self/task") if t != me]
        children = b" ".join(map(_read_children, [*others, me]))
    except OSError:
        return None
    return {int(pid) for pid in children.split()}


def _read_children(thread: str) -> bytes:
    """None of a thread that has ended. Raises OSError for the main thread."""
    try:
        fd = os.open(f"/proc/self/task/{thread}/children", os.O_RDONLY)
    except OSError:
        if thread == str(os.getpid()):
            raise
        return b""
    try:
        pieces = []
        while piece := os.read(fd, _PIECE_BYTES):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def _list_processes() -> list[_Process]:
    return [p for name in os.listdir("/proc") if name.isdigit() and (p := _read_process(int(name)))]


def _read_process(pid: int) -> _Process | None:
    """From /proc/<pid>/stat, see proc(5).

    The command's name is in parentheses and may hold anything.
    """
    fields = _read_bytes(f"/proc/{pid}/stat", _MOST_STAT_BYTES).rpartition(b")")[2].split(None, 4)
    if len(fields) < 4:
        return None
    return _Process(pid=pid, parent=int(fields[1]), session=int(fields[3]), is_zombie=fields[0] in (b"Z", b"X"))


def _read_bytes(path: str, most: int) -> bytes:
    """Without a file object: there is a file of each process of the system to read at the end of each command."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(fd, most)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _signal_group(pgid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
