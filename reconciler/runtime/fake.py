"""A runtime in memory, for tests: the same port, deterministic, with faults on command.

In: what a runtime gets. Out: what one answers. No effects. Ids count up, nothing happens by itself:
a started container runs until it is stopped or told to `crash`, unless its argv has a `Program`.
Methods that are not of the port are what the world does to a runtime: engines go down, answers get
lost, people change things by hand. May be used by many threads.
"""

import copy
import hashlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import NameTakenError, RuntimeRefusedError, RuntimeUnavailableError
from reconciler.ports import (
    ContainerSpec,
    ContainerState,
    ContainerSummary,
    Limits,
    RuntimeEvent,
    RuntimeFacts,
    Usage,
)
from reconciler.runtime.fake_container import FakeContainer, Program, describe, limit_fields, summarise
from reconciler.runtime.sandbox import FLEET_LABEL, container_uid

REMEMBERED_EVENTS = 256


class _Fault(Enum):
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    ANSWER_LOST = "answer lost"


class FakeRuntime:
    """`ports.Runtime` without an engine.

    `now_ns` gives the time of events. `calls` lists (method, container name or reference) in order.
    """

    def __init__(self, fleet: str = "00000000", *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.calls: list[tuple[str, str]] = []
        self._fleet = fleet
        self._now_ns = now_ns
        self._changed = threading.Condition()
        self._containers: dict[str, FakeContainer] = {}
        self._names: dict[str, str] = {}
        self._foreign_names: set[str] = set()
        self._images: dict[str, str] = {}
        self._programs: dict[tuple[str, ...], Program] = {}
        self._faults: defaultdict[str, deque[tuple[_Fault, str]]] = defaultdict(deque)
        self._down: str | None = None
        self._links = 0
        self._is_closed = False
        self._can_update = True
        self._limitations: tuple[str, ...] = ()
        self._made = 0
        self._events: list[RuntimeEvent] = []

    # --- the port -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return "fake"

    def close(self) -> None:
        """End all event iterators."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def facts(self) -> Reading[RuntimeFacts]:
        with self._changed:
            reason = self._why_unreadable("facts", "")
            if reason is not None:
                return Unavailable(reason=reason)
            return Ok(RuntimeFacts(name="fake", version="1", limitations=self._limitations))

    def resolve_image(self, reference: str) -> Reading[str]:
        with self._changed:
            reason = self._why_unreadable("resolve_image", reference)
            if reason is not None:
                return Unavailable(reason=reason)
            image_id = self._images.get(reference)
            return Absent() if image_id is None else Ok(image_id)

    def normalise(self, spec: ContainerSpec) -> Mapping[str, Any]:
        return {
            "image_id": spec.image_id,
            "argv": list(spec.argv),
            "env": dict(spec.env),
            "labels": {**spec.labels, FLEET_LABEL: self._fleet},
            "user": f"{spec.uid}:{spec.uid}",
            "working_dir": spec.working_dir,
            "hostname": spec.name,
            "limits": limit_fields(spec.limits),
            "mounts": {m.target: {"source": m.source, "read_only": m.read_only} for m in spec.mounts},
            "disk_bytes": spec.disk_bytes,
            "networks": ["none"],
        }

    def uid_for(self, name: str) -> int:  # noqa: ARG002 - the port's
        """The same for all: each container has its own file system and processes."""
        return container_uid()

    def list(self) -> Reading[Sequence[ContainerSummary]]:
        with self._changed:
            reason = self._why_unreadable("list", "")
            if reason is not None:
                return Unavailable(reason=reason)
            return Ok([summarise(container) for container in self._containers.values()])

    def list_labelled(self, label: str, value: str) -> Reading[Sequence[ContainerSummary]]:
        listed = self.list()
        if not isinstance(listed, Ok):
            return listed
        return Ok([c for c in listed.value if c.labels.get(label) == value])

    def inspect(self, name: str) -> Reading[ContainerState]:
        with self._changed:
            reason = self._why_unreadable("inspect", name)
            if reason is not None:
                return Unavailable(reason=reason)
            container = self._containers.get(self._names.get(name, ""))
            return Absent() if container is None else Ok(describe(container))

    def usage(self, name: str) -> Reading[Usage]:
        with self._changed:
            if (why := self._why_unreadable("usage", name)) is not None:
                return Unavailable(reason=why)
            container = self._containers.get(self._names.get(name, ""))
            if container is None or container.state != "running":
                return Absent()
            return Ok(Usage(cpu_s=container.cpu_s, memory_bytes=container.memory_in_use_bytes))

    def create(self, spec: ContainerSpec) -> str:
        with self._acting("create", spec.name):
            if spec.name in self._names or spec.name in self._foreign_names:
                raise NameTakenError(f"create {spec.name}: the name is in use")
            if spec.image_id not in self._images.values():
                raise RuntimeRefusedError(f"create {spec.name}: no image {spec.image_id}")
            self._made += 1
            container = FakeContainer(
                id=hashlib.sha256(f"{self._fleet} {self._made}".encode()).hexdigest(),
                name=spec.name,
                image_id=spec.image_id,
                labels={**spec.labels, FLEET_LABEL: self._fleet},
                program=self._programs.get(spec.argv, Program()),
                fields=copy.deepcopy(dict(self.normalise(spec))),
            )
            self._containers[container.id] = container
            self._names[spec.name] = container.id
            self._emit(container, "create")
            return container.id

    def start(self, container_id: str) -> None:
        with self._acting("start", self._name_of(container_id)):
            container = self._existing(container_id, "start")
            if container.state == "running":
                return
            seconds = self._now_ns() / 1e9
            container.started_at = datetime.fromtimestamp(seconds, UTC).isoformat()
            container.state, container.exit_code, container.oom_killed = "running", None, False
            container.pid = 1000 + self._made
            container.output.append(container.program.output)
            self._emit(container, "start")
            if container.program.exit_code is not None:
                self._end(container, container.program.exit_code)

    def update(self, container_id: str, limits: Limits) -> None:
        with self._acting("update", self._name_of(container_id)):
            container = self._existing(container_id, "update")
            if not self._can_update:
                raise RuntimeRefusedError(f"update {container.name}: not possible here")
            if container.memory_in_use_bytes > limits.memory_bytes:
                raise RuntimeRefusedError(f"update {container.name}: it uses more memory than that")
            container.fields["limits"] = limit_fields(limits)
            self._emit(container, "update")

    def stop(self, container_id: str, grace_s: float) -> None:
        with self._acting("stop", self._name_of(container_id)):
            container = self._containers.get(container_id)
            if container is not None and container.state in ("running", "paused"):
                self._end(container, 137 if container.program.shutdown_s > grace_s else 143)
                self._emit(container, "stop")

    def remove(self, container_id: str) -> None:
        with self._acting("remove", self._name_of(container_id)):
            self._drop(container_id)

    def logs(self, container_id: str, tail: int) -> str:
        with self._acting("logs", self._name_of(container_id)):
            lines = "".join(self._existing(container_id, "logs").output).splitlines(keepends=True)
            return "".join(lines[-tail:]) if tail > 0 else ""

    def events(self, since_ns: int) -> Iterator[RuntimeEvent]:
        with self._changed:
            link, at = self._links, max(0, len(self._events) - REMEMBERED_EVENTS)
        while (event := self._await_event(link, at)) is not None:
            at += 1
            if event.time_ns >= since_ns:
                yield event

    # --- the world ----------------------------------------------------------------------------

    def add_image(self, reference: str, image_id: str) -> None:
        """Add an image, or move a tag to another one."""
        self._images[reference] = image_id

    def forget_image(self, reference: str) -> None:
        del self._images[reference]

    def add_program(self, argv: tuple[str, ...], program: Program) -> None:
        """Say what containers made from now on with this `argv` do."""
        self._programs[argv] = program

    def go_down(self, reason: str = "connection refused") -> None:
        """Nothing answers from now on; containers go on."""
        with self._changed:
            self._down = reason
            self._changed.notify_all()

    def come_back(self) -> None:
        with self._changed:
            self._down = None
            self._links += 1
            self._changed.notify_all()

    def take_name(self, name: str) -> None:
        """Somebody else's container, which is never listed, has the name that this one would get."""
        self._foreign_names.add(name)

    def free_name(self, name: str) -> None:
        self._foreign_names.remove(name)

    def lose_events(self) -> None:
        """Open event streams break; all else goes on."""
        with self._changed:
            self._links += 1
            self._changed.notify_all()

    def refuse_next(self, method: str, message: str = "no", *, times: int = 1) -> None:
        """The next calls of `method` (one that changes something) are refused, without effect."""
        self._faults[method].extend([(_Fault.REFUSED, message)] * times)

    def fail_next(self, method: str, message: str = "timed out", *, times: int = 1) -> None:
        """The next calls of `method` are not answered and have no effect."""
        self._faults[method].extend([(_Fault.UNAVAILABLE, message)] * times)

    def lose_answer_of_next(self, method: str, *, times: int = 1) -> None:
        """The next calls of `method` (one that changes something) work, but are not answered."""
        self._faults[method].extend([(_Fault.ANSWER_LOST, "connection reset")] * times)

    def refuse_updates(self) -> None:
        """From now on limits can't be changed in place."""
        self._can_update = False

    def set_limitations(self, *sentences: str) -> None:
        self._limitations = sentences

    def crash(self, name: str, exit_code: int = 1, *, oom_killed: bool = False) -> None:
        """A running container ends by itself."""
        with self._by_hand(name) as container:
            container.oom_killed = oom_killed
            if oom_killed:
                self._emit(container, "oom")
            self._end(container, exit_code)

    def pause(self, name: str) -> None:
        with self._by_hand(name) as container:
            container.state = "paused"
            self._emit(container, "pause")

    def change_field(self, name: str, path: str, value: object) -> None:
        """Somebody changed a field by hand; `path` is dotted: `limits.pids`."""
        with self._by_hand(name) as container:
            *parents, last = path.split(".")
            inner: dict[str, Any] = container.fields
            for key in parents:
                inner = inner[key]
            inner[last] = value
            self._emit(container, "update")

    def use_memory(self, name: str, size_bytes: int) -> None:
        with self._by_hand(name) as container:
            container.memory_in_use_bytes = size_bytes

    def use_cpu(self, name: str, seconds: float) -> None:
        with self._by_hand(name) as container:
            container.cpu_s += seconds

    def print_line(self, name: str, line: str) -> None:
        with self._by_hand(name) as container:
            container.output.append(line + "\n")

    def remove_by_hand(self, name: str) -> None:
        with self._by_hand(name) as container:
            self._drop(container.id)

    # --- inside -------------------------------------------------------------------------------

    @contextmanager
    def _acting(self, method: str, subject: str) -> Iterator[None]:
        with self._changed:
            fault, message = self._next_fault(method, subject)
            if fault is _Fault.REFUSED:
                raise RuntimeRefusedError(f"{method} {subject}: {message}")
            if fault is _Fault.UNAVAILABLE:
                raise RuntimeUnavailableError(f"{method} {subject}: {message}")
            yield
            if fault is _Fault.ANSWER_LOST:
                raise RuntimeUnavailableError(f"{method} {subject}: {message}")

    @contextmanager
    def _by_hand(self, name: str) -> Iterator[FakeContainer]:
        with self._changed:
            yield self._containers[self._names[name]]

    def _why_unreadable(self, method: str, subject: str) -> str | None:
        fault, message = self._next_fault(method, subject)
        return None if fault is None else f"{method}: {message}"

    def _next_fault(self, method: str, subject: str) -> tuple[_Fault | None, str]:
        self.calls.append((method, subject))
        if self._down is not None:
            return _Fault.UNAVAILABLE, self._down
        if self._faults[method]:
            return self._faults[method].popleft()
        return None, ""

    def _await_event(self, link: int, at: int) -> RuntimeEvent | None:
        with self._changed:
            self._changed.wait_for(lambda: at < len(self._events) or self._is_over(link))
            if self._is_closed:
                return None
            if self._is_over(link):
                raise RuntimeUnavailableError(f"follow events: {self._down or 'link lost'}")
            return self._events[at]

    def _is_over(self, link: int) -> bool:
        """Whether event streams of that link have ended."""
        return self._is_closed or self._down is not None or self._links != link

    def _name_of(self, container_id: str) -> str:
        container = self._containers.get(container_id)
        return container_id if container is None else container.name

    def _existing(self, container_id: str, method: str) -> FakeContainer:
        container = self._containers.get(container_id)
        if container is None:
            raise RuntimeRefusedError(f"{method} {container_id[:12]}: no such container")
        return container

    def _end(self, container: FakeContainer, exit_code: int) -> None:
        container.state, container.exit_code, container.pid = "exited", exit_code, 0
        self._emit(container, "die")

    def _drop(self, container_id: str) -> None:
        container = self._containers.pop(container_id, None)
        if container is None:
            return
        if container.state in ("running", "paused"):
            self._end(container, 137)
        del self._names[container.name]
        self._emit(container, "destroy")

    def _emit(self, container: FakeContainer, action: str) -> None:
        last_ns = self._events[-1].time_ns if self._events else 0
        time_ns = max(self._now_ns(), last_ns + 1)
        self._events.append(RuntimeEvent(name=container.name, action=action, time_ns=time_ns))
        self._changed.notify_all()
