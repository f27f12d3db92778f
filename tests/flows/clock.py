"""A hub with a wall clock of its own: `python clock.py ARGUMENTS` is the reconciler under libfaketime, and it alone.

Children do not inherit the false clock. That library breaks `time.sleep` (EINVAL from clock_nanosleep on the monotonic
clock, which it leaves alone), so another way of waiting stands in for it here.
"""

import os
import runpy
import select
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class Clock:
    """How far a hub's clock is ahead, from now on. Where the library is missing, it stays the machine's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @property
    def program(self) -> Sequence[str]:
        """Arguments of Python before those of the hub."""
        return (__file__,) if FAKETIME else ("-m", "reconciler")

    @property
    def environment(self) -> Mapping[str, str]:
        if not FAKETIME:
            return {}
        return {
            "LD_PRELOAD": str(FAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_s: int) -> None:
        self.offset_s = offset_s if FAKETIME else 0
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{offset_s:+d}")
        draft.rename(self._file)

    def now(self) -> float:
        """What it shows, in seconds since the epoch."""
        return time.time() + self.offset_s


def wait(seconds: Any) -> None:
    """What `time.sleep` does."""
    select.select((), (), (), seconds)


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)
    time.sleep = wait
    sys.argv[0] = "reconciler"
    runpy.run_module("reconciler", run_name="__main__")
