"""The hub's end of one policy worker: start it, ask it one thing at a time within a deadline, kill it.

Blocking, and not for several threads at once. A worker that misses a deadline or breaks the protocol is killed; the
link is then closed for good, and its owner starts another.
"""

import json
import math
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from reconciler.errors import PolicyEngineError
from reconciler.policy.worker import command, encode_frame, frame_size

START_S = 10.0
ATTEND_S = 0.1
PATIENCE = 5
"""A question has so many times its processor time by the clock, since others may have the processors meanwhile."""


class WorkerLostError(PolicyEngineError):
    """The worker died or was killed while it was asked. `timed_out` tells which."""

    def __init__(self, message: str, *, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class WorkerLink:
    """One child process. Reply fields are those of the protocol (`worker.py`)."""

    def __init__(
        self, *, memory_bytes: int, start_s: float = START_S, attend: Callable[[], None] | None = None
    ) -> None:
        """Start a worker and wait until it is ready. Raises WorkerLostError.

        `attend` is called ten times a second while something is waited for; what it raises ends the worker.
        """
        self._attend = attend
        argv, env = command(memory_bytes)
        self._socket, there = socket.socketpair()
        with there:
            try:
                self._process = subprocess.Popen(argv, env=env, stdin=there.fileno(), stdout=there.fileno(), cwd="/")
            except OSError as exc:
                self._socket.close()
                raise WorkerLostError(f"policy worker: starting it: {exc}", timed_out=False) from exc
        self._number = 0
        self._receive(time.monotonic() + start_s, "starting")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(
        self, operation: str, deadline_s: float, *, busy_s: float = math.inf, **fields: object
    ) -> Mapping[str, Any]:
        """The reply, which may be an `error`. Raises WorkerLostError; ValueError on fields that are not JSON.

        The worker has `deadline_s` by the clock, and `busy_s` of processor time.
        """
        self._number += 1
        request = {"id": self._number, "op": operation, "deadline_s": deadline_s, **fields}
        try:
            frame = encode_frame(request)
        except (TypeError, RecursionError) as exc:
            raise ValueError(f"it is not JSON: {exc}") from exc
        until, busy_until = time.monotonic() + deadline_s, self._used_s() + busy_s
        try:
            self._socket.settimeout(deadline_s)
            self._socket.sendall(frame)
        except OSError as exc:
            raise self._lost(operation, exc) from exc
        reply = self._receive(until, operation, busy_until)
        if reply.get("id") != self._number:
            raise self._lost(operation, ValueError("it answered another request"))
        return reply

    def close(self) -> None:
        """End the worker; ended already is fine."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, until: float, operation: str, busy_until: float = math.inf) -> Mapping[str, Any]:
        try:
            size = frame_size(self._read(4, until, busy_until))
            reply = json.loads(self._read(size, until, busy_until))
        except (OSError, ValueError, RecursionError) as exc:
            raise self._lost(operation, exc) from exc
        except BaseException:
            self.close()
            raise
        if not isinstance(reply, dict):
            raise self._lost(operation, ValueError("the reply is not an object"))
        return reply

    def _read(self, size: int, until: float, busy_until: float) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._read_some(size, until, busy_until)
            if not part:
                raise ConnectionResetError("it closed the connection")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _read_some(self, size: int, until: float, busy_until: float) -> bytes:
        """Raises TimeoutError at either deadline. What is there already counts, however late we come to look."""
        step_s = math.inf if self._attend is None and busy_until == math.inf else ATTEND_S
        while True:
            is_over = time.monotonic() >= until or self._used_s() >= busy_until
            self._socket.settimeout(0.001 if is_over else max(min(until - time.monotonic(), step_s), 0.001))
            try:
                return self._socket.recv(min(size, 2**20))
            except TimeoutError:
                if is_over:
                    raise
                if self._attend:
                    self._attend()

    def _used_s(self) -> float:
        """Seconds of processor time; a process's clock is numbered as in clock_getcpuclockid(3)."""
        try:
            return time.clock_gettime(~self._process.pid << 3 | 2)
        except OSError:
            return 0.0

    def _lost(self, operation: str, cause: Exception) -> WorkerLostError:
        timed_out = isinstance(cause, TimeoutError)
        self.close()
        if timed_out:
            return WorkerLostError(f"policy worker: {operation} missed its deadline and was killed", timed_out=True)
        code = self._process.returncode
        return WorkerLostError(f"policy worker: {operation} ended it (status {code})", timed_out=False)
