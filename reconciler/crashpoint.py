"""Named points at which a test may kill the process, to prove that the next pass repairs what was left.

`point(name)` stands before and after every intent, effect and outcome. Unarmed it is an empty function, chosen at
import, so that it costs one call. Armed by the environment:

RECONCILER_CRASH_AT=name[:n]   SIGKILL this process at the n-th visit (default 1) of the point
RECONCILER_CRASH_LOG=path      append each visited point's name to the file, one per line
RECONCILER_CRASH_ONCE=path     SIGKILL this process at each point that the file does not name yet, after adding it
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def _build() -> Callable[[str], None]:
    target, _, nth = os.environ.get("RECONCILER_CRASH_AT", "").partition(":")
    log, once = os.environ.get("RECONCILER_CRASH_LOG"), os.environ.get("RECONCILER_CRASH_ONCE")
    if not target and not log and not once:
        return lambda _name: None
    left, turn = int(nth or "1"), threading.Lock()

    def armed(name: str) -> None:
        nonlocal left
        if log:
            with open(log, "a", encoding="utf-8") as out:
                out.write(name + "\n")
        if name == target:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        if once:
            with turn:
                _kill_once(once, name)

    return armed


def _kill_once(path: str, name: str) -> None:
    with open(path, "a+", encoding="utf-8") as known:
        known.seek(0)
        if name not in known.read().split():
            known.write(name + "\n")
            known.flush()
            os.kill(os.getpid(), signal.SIGKILL)


point = _build()


def effect(name: str, do: Callable[..., T], *arguments: object) -> T:
    """`do(*arguments)` between the points `name.before` and `name.after`."""
    point(f"{name}.before")
    result = do(*arguments)
    point(f"{name}.after")
    return result
