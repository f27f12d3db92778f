"""Inspections kept fresh: asked when unknown or touched by an event, and all of them, and their use, once per sweep.

`Inspections` is the cache that observing reads. `Sweep` is the thread that looks at the whole fleet again in the
course of one resync, so that a change by hand which gives no event is still seen.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.ports import ContainerState, Runtime, Usage

IDLE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a container used by a time (seconds of `time.monotonic`), and the processors since the sample before."""

    usage: Usage
    at_s: float
    cpus: float = 0.0


class Inspections:
    """The latest `inspect` per container name. Safe for threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._by_name: dict[str, ContainerState] = {}
        self._matched: dict[str, tuple[ContainerState, str]] = {}
        self._samples: dict[str, Sample] = {}

    def get(self, name: str, container_id: str) -> ContainerState | None:
        """The inspection of this very container; asked now when there is none. None when it cannot be had."""
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

    def samples(self) -> Mapping[str, Sample]:
        """What each container that runs was last seen to use."""
        with self._lock:
            return dict(self._samples)

    def sample(self, name: str) -> None:
        """Look at what one container uses."""
        found, now_s = self._runtime.usage(name), time.monotonic()
        with self._lock:
            before = self._samples.pop(name, None)
            if isinstance(found, Ok):
                self._samples[name] = _next_sample(before, found.value, now_s)
            elif isinstance(found, Unavailable) and before is not None:
                self._samples[name] = before

    def forget_samples_but(self, names: Collection[str]) -> None:
        """Containers of other names are gone."""
        with self._lock:
            self._samples = {name: sample for name, sample in self._samples.items() if name in names}

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


def _next_sample(before: Sample | None, usage: Usage, now_s: float) -> Sample:
    """A container that was started anew has used less than before."""
    if before is None or now_s <= before.at_s or usage.cpu_s < before.usage.cpu_s:
        return Sample(usage=usage, at_s=now_s)
    cpus = (usage.cpu_s - before.usage.cpu_s) / (now_s - before.at_s)
    return Sample(usage=usage, at_s=now_s, cpus=cpus)


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
            self._inspections.forget_samples_but(names)
            started = time.monotonic()
            pause = min(IDLE_S, self._resync_s() / max(1, len(names)))
            for name in names:
                if self._inspections.look_again(name):
                    self._wake()
                self._inspections.sample(name)
                if self._stop_event.wait(pause):
                    return
            rest = self._resync_s() - (time.monotonic() - started) if names else 0.0
            if self._stop_event.wait(max(pause, min(rest, self._resync_s()))):
                return
