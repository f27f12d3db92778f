"""The two clocks of the router, and the minute that policies see."""

import time


def boottime_s() -> float:
    """CLOCK_BOOTTIME in seconds: for leases, time-outs and `last_seen`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Minutes:
    """Wall time cut to the minute, as text; made once per minute, not once per message."""

    def __init__(self) -> None:
        self._minute = -1
        self._text = ""

    def show(self, wall_s: float) -> str:
        """`2026-11-21T08:15:00Z` for epoch seconds."""
        minute = int(wall_s) // 60
        if minute != self._minute:
            self._minute = minute
            self._text = time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime(minute * 60))
        return self._text
