"""What wakes the loop: changed files, engine events, the router's hints, an operator, the timer.

A wake carries no data: whoever wakes, the pass reads the world again.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from reconciler.errors import RouterError, RuntimeUnavailableError
from reconciler.loop.inspections import Inspections
from reconciler.ports import RouterControl, Runtime

HINT_WAIT_S = 10.0
RETRY_S = 0.5
REWIND_NS = 5_000_000_000
WATCH_DEBOUNCE_MS = 50
WATCH_STEP_MS = 20
LOOK_AGAIN_MS = 500


class Wake:
    """A bell that remembers that it rang."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._heard = threading.Event()

    def ring(self) -> None:
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the next ring; whether there was one."""
        rang = self._event.wait(timeout_s)
        self._event.clear()
        self._heard.set()
        return rang

    def ring_until_heard(self, timeout_s: float) -> None:
        """Ring, and return when somebody who waits for it has heard it: until then it needs no second ring."""
        self._heard.clear()
        self._event.set()
        self._heard.wait(timeout_s)


def watch_files(paths: Callable[[], Sequence[str]], wake: Wake, stop: threading.Event) -> threading.Thread:
    """Ring when anything below the paths changes."""

    def follow() -> None:
        from watchfiles import watch

        while not stop.is_set():
            existing = _existing(paths)
            if not existing:
                stop.wait(RETRY_S)
                continue
            try:
                for changes in watch(
                    *(path for path, _inode in existing),
                    stop_event=stop,
                    debounce=WATCH_DEBOUNCE_MS,
                    step=WATCH_STEP_MS,
                    watch_filter=None,
                    recursive=False,
                    raise_interrupt=False,
                    rust_timeout=LOOK_AGAIN_MS,
                    yield_on_timeout=True,
                ):
                    if changes:
                        wake.ring()
                    if _existing(paths) != existing:
                        wake.ring()
                        break
            except (OSError, RuntimeError):
                stop.wait(RETRY_S)

    return _started(follow, "watch")


def _existing(paths: Callable[[], Sequence[str]]) -> list[tuple[str, int]]:
    """The paths as they are now, with their inodes: the inbox is made after the first pass, its place may change with
    a commit, and one that was removed and made again is another.
    """
    found = []
    for path in paths():
        with suppress(OSError):
            found.append((path, Path(path).stat().st_ino))
    return found


def follow_engine(runtime: Runtime, inspections: Inspections, wake: Wake, stop: threading.Event) -> threading.Thread:
    """Ring at events of our containers; after a lost link everything is looked at again from a little earlier."""

    def follow() -> None:
        since_ns = time.time_ns()
        while not stop.is_set():
            try:
                for event in runtime.events(since_ns):
                    since_ns = max(since_ns, event.time_ns)
                    inspections.forget(event.name)
                    wake.ring()
                    if stop.is_set():
                        return
            except RuntimeUnavailableError:
                wake.ring()
            since_ns -= REWIND_NS
            inspections.forget_all()
            stop.wait(RETRY_S)

    return _started(follow, "engine-events")


def follow_router(router: RouterControl, wake: Wake, stop: threading.Event) -> threading.Thread:
    """Ring when the router has something for the hub, and when it stops answering."""

    def follow() -> None:
        while not stop.is_set():
            try:
                if router.wait_hint(HINT_WAIT_S):
                    wake.ring_until_heard(HINT_WAIT_S)
            except RouterError:
                wake.ring()
                stop.wait(RETRY_S)

    return _started(follow, "router-hints")


def _started(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
