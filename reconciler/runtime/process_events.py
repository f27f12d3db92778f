"""The journal of the process runtime: what happened to containers, as hints for whoever follows.

Hub and shims append lines to `.events` in the runtime's directory; a full journal becomes
`.events.1`. In: a point in time. Out: `RuntimeEvent`s in order. While somebody follows, `look` is
called now and then, which notices a shim that could not write its own end.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from reconciler.ports import RuntimeEvent
from reconciler.runtime import shim

_CAP_BYTES = 2**20
_POLL_S = 0.2


class Journal:
    """The journal in the directory `root`, which need not exist yet. From any thread.

    `look` is called each `look_s` seconds while somebody follows.
    """

    def __init__(self, root: str, look: Callable[[], object], *, look_s: float = 5.0) -> None:
        self._path = f"{root}/{shim.JOURNAL}"
        self._look = look
        self._look_s = look_s
        self._closed = threading.Event()

    def append(self, name: str, action: str) -> None:
        """Add an event that happens now. Never fails."""
        shim.append_event(self._path, name, action)
        try:
            if os.stat(self._path).st_size > _CAP_BYTES:
                self._rotate()
        except OSError:
            return

    def follow(self, since_ns: int) -> Iterator[RuntimeEvent]:
        """Events from that wall-clock time on, until `close`."""
        looked_s = time.monotonic()
        file: BinaryIO | None = None
        pending = b""
        try:
            while not self._closed.is_set():
                chunk = file.read() if file else b""
                *lines, pending = (pending + chunk).split(b"\n")
                yield from _parse(lines, since_ns)
                if not chunk and (newer := _open_other(self._path, file)):
                    older = _open_other(f"{self._path}.1", file, newer)
                    missed = pending + _read_rest(file) + b"\n" + _read_rest(older)
                    file, pending = newer, b""
                    yield from _parse(missed.split(b"\n"), since_ns)
                elif not chunk:
                    self._closed.wait(_POLL_S)
                if time.monotonic() - looked_s > self._look_s:
                    self._look()
                    looked_s = time.monotonic()
        finally:
            if file:
                file.close()

    def close(self) -> None:
        """End all followers; later ones end at once."""
        self._closed.set()

    def _rotate(self) -> None:
        """Only the first of several that find the journal full."""
        with open(f"{self._path}.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.stat(self._path).st_size > _CAP_BYTES:
                os.replace(self._path, f"{self._path}.1")


def _open_other(path: str, *than: BinaryIO | None) -> BinaryIO | None:
    """The file there, unless it is one of the open ones or there is none."""
    try:
        found = open(path, "rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        return None
    mine = os.fstat(found.fileno())
    if any(file and os.path.samestat(mine, os.fstat(file.fileno())) for file in than):
        found.close()
        return None
    return found


def _read_rest(file: BinaryIO | None) -> bytes:
    """To the end, and closed."""
    if file is None:
        return b""
    with file:
        return file.read()


def _parse(lines: list[bytes], since_ns: int) -> Iterator[RuntimeEvent]:
    for line in lines:
        parts = line.decode(errors="replace").split(" ")
        if len(parts) == 3 and parts[0].isdigit() and int(parts[0]) >= since_ns:
            yield RuntimeEvent(name=parts[1], action=parts[2], time_ns=int(parts[0]))
