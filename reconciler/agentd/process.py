"""Runs one program without a shell and watches over it.

An `Order` comes in, an `Ended` goes out; in between there are processes of the order's own, and
none afterwards. Watched are: the first output, progress (any output), the total time, the size of
stdout, and a `Halt` from outside. Stdout is kept, or handed on line by line.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reconciler.agentd.groups import Child, ProcessGroups

KILL_AFTER_S = 2.0
STDERR_TAIL_BYTES = 8 * 1024
_CHUNK_BYTES = 64 * 1024
_TICK_S = 0.05
_PROGRESS_PREFIX = b"progress:"
_PROGRESS_EVERY_S = 1.0
_MAX_LINE_BYTES = 4096
_MAX_STDOUT_LINE_BYTES = 16 * 2**20

TakeLine = Callable[[bytes], str]


class SpawnError(Exception):
    """The program could not be started."""


@dataclass(frozen=True)
class Order:
    """What to run.

    `marker` is a value in `env` that is this order's own; a time-out of None is switched off.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    stdin_path: str
    marker: str
    max_stdout_bytes: int
    timeout_s: float | None = None
    first_output_s: float | None = None
    progress_s: float | None = None


@dataclass(frozen=True)
class Ended:
    """How it ended.

    `reason` is exit, timeout, first_output, progress, too_large, or what the `Halt` said.

    `exit_code` is 128 + n after signal n, as shells have it. `error` is a sentence, empty after
    exit code 0.
    """

    exit_code: int
    reason: str
    error: str
    stdout: bytes
    stderr_tail: str
    duration_s: float


class Halt:
    """Stops one command from outside, from any thread. The first reason stays."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._lock = threading.Lock()
        self.reason = ""
        self.kill_after_s = KILL_AFTER_S

    def set(self, reason: str, *, kill_after_s: float = KILL_AFTER_S) -> None:
        with self._lock:
            if not self.reason:
                self.reason, self.kill_after_s = reason, kill_after_s
                if self._writer.fileno() >= 0:
                    self._writer.send(b"\0")

    def fileno(self) -> int:
        return self._reader.fileno()

    def close(self) -> None:
        with self._lock:
            self._reader.close()
            self._writer.close()


def start(order: Order, groups: ProcessGroups) -> Child:
    """Start the program; it runs when this returns. Raises SpawnError."""
    if not order.argv:
        raise SpawnError("neither the agent nor the task names a command")
    try:
        with open(order.stdin_path, "rb") as stdin:
            return groups.spawn(order.argv, env=order.env, cwd=order.cwd, stdin=stdin, marker=order.marker)
    except (OSError, ValueError) as error:
        raise SpawnError(f"starting {order.argv[0]}: {error}") from error


def watch(
    child: Child,
    order: Order,
    groups: ProcessGroups,
    halt: Halt,
    on_progress: Callable[[str], None],
    take_line: TakeLine | None = None,
) -> Ended:
    """Wait until the program has ended, of itself or not, and nothing of it is left.

    `take_line`, where given, is called with each line of stdout, which then is neither kept nor
    limited; it returns progress to tell, or "". Lines above 16 MiB are left out.
    """
    return _Watch(child, order, groups, halt, on_progress, take_line).run()


class _Watch:
    def __init__(
        self,
        child: Child,
        order: Order,
        groups: ProcessGroups,
        halt: Halt,
        on_progress: Callable[[str], None],
        take_line: TakeLine | None,
    ) -> None:
        self._child = child
        self._order = order
        self._groups = groups
        self._halt = halt
        self._progress = _Progress(on_progress)
        self._lines = _Lines(lambda line: self._progress.note(take_line(line))) if take_line else None
        self._selector = selectors.DefaultSelector()
        self._stdout = bytearray()
        self._tail = bytearray()
        self._started = self._last_output = time.monotonic()
        self._has_output = False
        self._reason = ""
        self._error = ""
        self._kill_at: float | None = None

    def run(self) -> Ended:
        exit_fd = _open_exit_fd(self._child.pid)
        try:
            with self._child.stdout, self._child.stderr, self._selector:
                self._register(exit_fd)
                with self._groups.turn.passed_on():
                    while not _has_ended(self._child.pid):
                        self._step(is_exit_seen=exit_fd is not None)
                self._groups.kill(self._child)
                self._drain()
                if self._lines is not None:
                    self._lines.end()
                self._progress.flush(time.monotonic())
        finally:
            if exit_fd is not None:
                os.close(exit_fd)
        return self._conclude(self._groups.end(self._child))

    def _register(self, exit_fd: int | None) -> None:
        for pipe, take in (
            (self._child.stdout, self._take_stdout),
            (self._child.stderr, self._take_stderr),
        ):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, take)
        self._selector.register(self._halt, selectors.EVENT_READ)
        if exit_fd is not None:
            self._selector.register(exit_fd, selectors.EVENT_READ)

    def _step(self, *, is_exit_seen: bool) -> None:
        now = time.monotonic()
        self._check(now)
        self._progress.flush(now)
        deadlines = [d for d in (self._next_deadline(), self._progress.due) if d is not None]
        if not is_exit_seen:
            deadlines.append(now + _TICK_S)
        pause_s = max(min(deadlines) - now, 0.0) if deadlines else None
        for key, _events in self._selector.select(pause_s):
            if key.data:
                self._read(key.fd, key.data)

    def _check(self, now: float) -> None:
        """Stop what has run out of time or was halted; kill what did not stop."""
        if self._kill_at is not None:
            if now >= self._kill_at:
                self._kill_at = now + KILL_AFTER_S
                self._groups.kill(self._child)
        elif self._halt.reason:
            self._selector.unregister(self._halt)
            self._stop(self._halt.reason, f"stopped: {self._halt.reason}", self._halt.kill_after_s)
        elif (expired := self._expired(now)) is not None:
            self._stop(expired[0], expired[1], KILL_AFTER_S)

    def _stop(self, reason: str, error: str, kill_after_s: float) -> None:
        self._reason, self._error = reason, error
        self._kill_at = time.monotonic() + kill_after_s
        self._groups.terminate(self._child)

    def _limits(self) -> list[tuple[float, str, str]]:
        """When, why and in which words the command will have run out of time."""
        order, limits = self._order, []
        if order.timeout_s is not None:
            limits.append(
                (
                    self._started + order.timeout_s,
                    "timeout",
                    f"took longer than {order.timeout_s:g} s",
                )
            )
        if not self._has_output and order.first_output_s is not None:
            at = self._started + order.first_output_s
            limits.append((at, "first_output", f"wrote nothing within {order.first_output_s:g} s"))
        elif order.progress_s is not None:
            at = self._last_output + order.progress_s
            limits.append((at, "progress", f"wrote nothing for {order.progress_s:g} s"))
        return limits

    def _expired(self, now: float) -> tuple[str, str] | None:
        at, reason, error = min(self._limits(), default=(now + 1, "", ""))
        return (reason, error) if now >= at else None

    def _next_deadline(self) -> float | None:
        if self._kill_at is not None:
            return self._kill_at
        return min((at for at, _, _ in self._limits()), default=None)

    def _read(self, fd: int, take: Callable[[bytes], None]) -> bool:
        """Take one chunk; False when there is no more for now, or ever."""
        try:
            chunk = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._selector.unregister(fd)
            return False
        self._has_output = True
        self._last_output = time.monotonic()
        take(chunk)
        return True

    def _take_stdout(self, chunk: bytes) -> None:
        if self._lines is not None:
            self._lines.feed(chunk)
            return
        left = self._order.max_stdout_bytes - len(self._stdout)
        self._stdout += chunk[:left]
        if len(chunk) > left and not self._reason:
            self._stop("too_large", f"wrote more than {self._order.max_stdout_bytes} bytes", KILL_AFTER_S)

    def _take_stderr(self, chunk: bytes) -> None:
        self._tail += chunk
        del self._tail[:-STDERR_TAIL_BYTES]
        self._progress.feed(chunk)

    def _drain(self) -> None:
        """Read what is left in the pipes; nobody writes to them any more."""
        for key in list(self._selector.get_map().values()):
            if key.data:
                while self._read(key.fd, key.data):
                    pass

    def _conclude(self, status: int) -> Ended:
        exit_code = status if status >= 0 else 128 - status
        error = self._error or _describe_exit(status)
        return Ended(
            exit_code=exit_code,
            reason=self._reason or "exit",
            error=error,
            stdout=bytes(self._stdout),
            stderr_tail=self._tail.decode("utf-8", "replace"),
            duration_s=round(time.monotonic() - self._started, 3),
        )


class _Progress:
    """Finds `progress:` lines in stderr and passes on the latest, at most one per second."""

    def __init__(self, on_progress: Callable[[str], None]) -> None:
        self._on_progress = on_progress
        self._rest = b""
        self._latest = ""
        self._next_at = 0.0

    @property
    def due(self) -> float | None:
        """When there is something to pass on; None where there is nothing."""
        return self._next_at if self._latest else None

    def feed(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[:_MAX_LINE_BYTES]
        for line in lines:
            if line.startswith(_PROGRESS_PREFIX):
                text = line[len(_PROGRESS_PREFIX) : _MAX_LINE_BYTES]
                self.note(text.decode("utf-8", "replace").strip())

    def note(self, text: str) -> None:
        """What is to be passed on next, unless it is empty."""
        self._latest = text or self._latest

    def flush(self, now: float) -> None:
        if self._latest and now >= self._next_at:
            self._on_progress(self._latest)
            self._latest, self._next_at = "", now + _PROGRESS_EVERY_S


class _Lines:
    """Cuts what it is fed into lines. One that is too long is left out, as are empty ones."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._line = bytearray()
        self._is_too_long = False

    def feed(self, chunk: bytes) -> None:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._add(end)
            self.end()
        self._add(rest)

    def end(self) -> None:
        """The line is complete, also without a line break."""
        line, self._line = bytes(self._line), bytearray()
        was_too_long, self._is_too_long = self._is_too_long, False
        if line and not was_too_long:
            self._take(line)

    def _add(self, piece: bytes) -> None:
        if self._is_too_long or len(self._line) + len(piece) > _MAX_STDOUT_LINE_BYTES:
            self._is_too_long = True
            self._line.clear()
        else:
            self._line += piece


def _open_exit_fd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _has_ended(pid: int) -> bool:
    """Without reaping it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exited with code {status}" if status else ""
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
