"""A clock that a test turns by hand."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class FakeClock:
    """`Clock`. `advance` moves wall time and boot time together; `reboot` starts boot time anew."""

    def __init__(self, now: datetime = START, boottime_s: float = 1000.0) -> None:
        self._now = now
        self._boottime_s = boottime_s
        self._boots = 1

    def now(self) -> datetime:
        return self._now

    def boottime(self) -> float:
        return self._boottime_s

    def boot_id(self) -> str:
        return f"boot-{self._boots}"

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._boottime_s += seconds

    def reboot(self) -> None:
        """The machine was started again: another boot id, and boot time from zero."""
        self._boots += 1
        self._boottime_s = 1.0
