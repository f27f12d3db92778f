"""The real clock: wall time for people, CLOCK_BOOTTIME for leases and back-off."""

import time
from datetime import UTC, datetime
from pathlib import Path


class SystemClock:
    """`Clock` of this machine."""

    def __init__(self) -> None:
        try:
            self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            self._boot_id = "unknown"

    def now(self) -> datetime:
        return datetime.now(UTC)

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return self._boot_id
