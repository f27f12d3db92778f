"""A fuse: ends the hub at the n-th effect, as SIGKILL would, in a way that a test survives.

It sits in the fakes of one hub. Once blown, whatever else the dying hub tries raises too: the dead do nothing.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class KilledError(BaseException):
    """The hub is dead. No `except Exception` may catch it."""


class Fuse:
    """Notes each place that is passed; blows at visit number `blow_at` (from 1; None: never)."""

    def __init__(self, blow_at: int | None = None) -> None:
        self.visited: list[str] = []
        self.is_blown = False
        self._blow_at = blow_at
        self._lock = threading.Lock()

    def visit(self, place: str) -> None:
        with self._lock:
            if self.is_blown:
                raise KilledError(place)
            self.visited.append(place)
            if len(self.visited) == self._blow_at:
                self.is_blown = True
                raise KilledError(place)

    @contextmanager
    def around(self, effect: str) -> Iterator[None]:
        """Two places: before the effect, and after it, when it has happened but nobody knows yet."""
        self.visit(f"{effect}.before")
        yield
        self.visit(f"{effect}.after")
