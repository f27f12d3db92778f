"""An egress process in memory: what it was told goes with each restart of it."""

import copy
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.egress.config import Config, InstanceEntry
from reconciler.errors import EgressError, EgressRefusedError
from reconciler.ports import EgressReport
from tests.fakes.fuse import Fuse


class FakeEgress:
    """`EgressControl`. It takes what the real one takes. `calls` counts by method."""

    def __init__(self, fuse: Fuse | None = None) -> None:
        self.fuse = fuse or Fuse()
        self.config: Mapping[str, Any] = {}
        self.instances: dict[str, Mapping[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        self.is_running = False
        self.unreadable = ""
        self.faults: dict[str, str] = {}
        self._epoch = 0
        self._lock = threading.RLock()

    # --- the port -----------------------------------------------------------------------------------------------------

    def report(self) -> Reading[EgressReport]:
        if self.unreadable:
            return Unavailable(reason=self.unreadable)
        if not self.is_running:
            return Absent()
        return Ok(
            EgressReport(
                pid=1,
                epoch=f"epoch-{self._epoch}",
                code_version="1",
                config_digest=str(self.config.get("digest", "")),
                instances={name: entry["digest"] for name, entry in self.instances.items()},
                faults=dict(self.faults),
            )
        )

    def configure(self, config: Mapping[str, Any]) -> None:
        with self._acting("configure"):
            self.config = _checked(config, Config)

    def put_instance(self, name: str, entry: Mapping[str, Any]) -> None:
        with self._acting("put_instance"):
            self.instances[name] = _checked(entry, InstanceEntry)

    def remove_instance(self, name: str) -> None:
        if self.is_running:
            with self._acting("remove_instance"):
                self.instances.pop(name, None)

    def start(self) -> None:
        with self.fuse.around("egress.start"), self._lock:
            self.calls["start"] += 1
            if not self.is_running:
                self.is_running = True
                self._epoch += 1

    def stop(self) -> None:
        with self.fuse.around("egress.stop"), self._lock:
            self.calls["stop"] += 1
            self.unreadable = ""
            self.die()

    # --- the world ----------------------------------------------------------------------------------------------------

    def die(self) -> None:
        """The process ends: what it held in memory is gone."""
        self.is_running = False
        self.config, self.instances = {}, {}

    def copy(self) -> "FakeEgress":
        """Another one in the same state; what is done to one does not show in the other."""
        other = FakeEgress()
        kept = {k: v for k, v in vars(self).items() if k not in ("_lock", "fuse")}
        vars(other).update(copy.deepcopy(kept))
        return other

    @contextmanager
    def _acting(self, method: str) -> Iterator[None]:
        with self.fuse.around(f"egress.{method}"), self._lock:
            if not self.is_running:
                raise EgressError(f"{method}: the egress process does not answer")
            self.calls[method] += 1
            yield


def _checked(value: Mapping[str, Any], shape: type[Any]) -> Mapping[str, Any]:
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise EgressRefusedError(str(error)) from error
    return value
