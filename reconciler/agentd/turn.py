"""Whose turn it is: what is done beside the programs of tasks is done by one thread after another.

Each system call hands the interpreter over to whoever waits for it. Threads that prepare and clear
up at the same time pay more for that than for their work.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_PATIENCE_S = 0.5


class Turn:
    """A courtesy that nothing relies on: who has waited for half a second goes on all the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here = threading.local()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """It is this thread's turn while the block runs."""
        self._take()
        try:
            yield
        finally:
            self._give()

    @contextlib.contextmanager
    def passed_on(self) -> Iterator[None]:
        """Inside `taken`: it is somebody else's turn while the block runs, which waits for something."""
        is_inside = self._give()
        try:
            yield
        finally:
            if is_inside:
                self._take()

    def _take(self) -> None:
        self._here.has = self._lock.acquire(timeout=_PATIENCE_S)

    def _give(self) -> bool:
        """Whether this thread is inside `taken`."""
        has: bool | None = self._here.__dict__.pop("has", None)
        if has:
            self._lock.release()
        return has is not None
