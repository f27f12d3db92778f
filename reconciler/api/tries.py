"""How often each caller may try. In memory, bounded."""

import time
from collections import OrderedDict
from collections.abc import Callable

TRIES, TRIES_PER_S = 10.0, 1.0
_KEPT = 4096


class Tries:
    """A token bucket for each caller; a good request gives its token back. Of the callers only the latest are known."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> bool:
        """Whether the caller may try now."""
        now = self._clock()
        left, at = self._left.pop(caller, (TRIES, now))
        left = min(TRIES, left + (now - at) * TRIES_PER_S)
        self._left[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _KEPT:
            self._left.popitem(last=False)
        return left >= 1

    def give_back(self, caller: str) -> None:
        """It was a good one."""
        left, at = self._left.get(caller, (TRIES, self._clock()))
        self._left[caller] = (min(TRIES, left + 1), at)
