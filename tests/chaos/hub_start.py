"""`python hub_start.py ARGUMENTS`: the reconciler under libfaketime, which it was given by LD_PRELOAD, and it alone.

Children do not inherit the false clock. That library breaks `time.sleep` (EINVAL from clock_nanosleep on the monotonic
clock, which it leaves alone), so another way of waiting stands in for it here.
"""

import os
import runpy
import select
import sys
import time
from typing import Any


def wait(seconds: Any) -> None:
    """What `time.sleep` does."""
    select.select((), (), (), seconds)


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)
    time.sleep = wait
    sys.argv[0] = "reconciler"
    runpy.run_module("reconciler", run_name="__main__")
