"""What control should look at: kinds are added as things happen, and collected by one long poll."""

import asyncio
from collections.abc import Collection

from reconciler.router.line import Line


class Hints:
    """A set of kinds (`task`, `agent`, `router`) that empties when it is collected."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._waiters: set[asyncio.Future[None]] = set()

    def add(self, kind: str) -> None:
        """Wakes whoever collects."""
        self._kinds.add(kind)
        self.wake()

    def wake(self) -> None:
        """End all waiting, with what there is."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def collect(self, line: Line, timeout_s: float) -> Collection[str]:
        """The kinds since the last call, as soon as there are any; none after the time-out."""
        if not self._kinds and timeout_s > 0:
            waiter: asyncio.Future[None] = line.loop.create_future()
            self._waiters.add(waiter)
            try:
                await line.wait(waiter, timeout_s)
            finally:
                self._waiters.discard(waiter)
        if line.is_lost:
            return ()
        kinds, self._kinds = self._kinds, set()
        return sorted(kinds)
