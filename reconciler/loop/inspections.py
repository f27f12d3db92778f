"""Inspections kept fresh: asked when unknown or touched by an event, and all of them once per sweep.

`Inspections` is the cache that observing reads. `Sweep` is the thread that looks at the whole fleet again in the
course of one resync, so that a change by hand which gives no event is still seen.
"""

import json
import threading
import time
from collections.abc import Callable

from reconciler.core.reading import Absent, Ok
from reconciler.ports import ContainerState, Runtime

IDLE_S = 0.5


class Inspections:
    """The latest `inspect` per container name. Safe for threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._by_name: dict[str, ContainerState] = {}
        self._matched: dict[str, tuple[ContainerState, str]] = {}

    def get(self, name: str, container_id: str) -> ContainerState | None:
        """The inspection of this very container; asked now when there is none. None when it cannot be had."""
        with self._lock:
            known = self._by_name.get(name)
        if known is not None and known.id == container_id:
            return known
        found = self._runtime.inspect(name)
        if not isinstance(found, Ok) or found.value.id != container_id:
            return None
        with self._lock:
            self._by_name[name] = found.value
        return found.value

    def is_as_recorded(self, inspected: ContainerState, fields: str) -> bool:
        """Whether an inspection shows what the record (JSON) says; remembered for as long as neither changes."""
        known = self._matched.get(inspected.name)
        if known is not None and known[0] is inspected and known[1] == fields:
            return True
        if json.loads(fields) != inspected.fields:
            return False
        self._matched[inspected.name] = (inspected, fields)
        return True

    def forget(self, name: str) -> None:
        """An event touched it: the next `get` asks again."""
        with self._lock:
            self._by_name.pop(name, None)

    def forget_all(self) -> None:
        """Events were missed: everything is asked again."""
        with self._lock:
            self._by_name.clear()

    def names(self) -> list[str]:
        with self._lock:
            return list(self._by_name)

    def look_again(self, name: str) -> bool:
        """Inspect one container; whether anything but its age is different from what was known."""
        found = self._runtime.inspect(name)
        if isinstance(found, Absent):
            self.forget(name)
            return True
        if not isinstance(found, Ok):
            return False
        with self._lock:
            before = self._by_name.get(name)
            self._by_name[name] = found.value
        return before is None or (before.id, before.state, before.fields) != (
            found.value.id,
            found.value.state,
            found.value.fields,
        )


class Sweep(threading.Thread):
    """Looks at every known container once per `resync_s()`, evenly spread; `wake` is called on a difference."""

    def __init__(
        self, inspections: Inspections, resync_s: Callable[[], float], wake: Callable[[], None], stop: threading.Event
    ) -> None:
        super().__init__(name="sweep", daemon=True)
        self._inspections, self._resync_s, self._wake, self._stop_event = inspections, resync_s, wake, stop

    def run(self) -> None:
        while not self._stop_event.is_set():
            names = self._inspections.names()
            started = time.monotonic()
            pause = min(IDLE_S, self._resync_s() / max(1, len(names)))
            for name in names:
                if self._inspections.look_again(name):
                    self._wake()
                if self._stop_event.wait(pause):
                    return
            rest = self._resync_s() - (time.monotonic() - started)
            if self._stop_event.wait(max(pause, min(rest, self._resync_s()))):
                return
