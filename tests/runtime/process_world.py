"""A process runtime of its own for each test, and a look at the real processes it made."""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.reading import Ok
from reconciler.ports import ContainerSpec, ContainerState, ContainerSummary, Limits
from reconciler.runtime.process import ProcessRuntime
from reconciler.runtime.process_survivors import MARKER
from reconciler.runtime.shim import read_process

IMAGE_ID = "process:" + "0" * 64
MEMORY = "/dev/shm"
SLEEP = ("/bin/sleep", "600")
REPOSITORY = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`directory` can be entered by everybody; the runtime's root is a directory in it."""

    fleet: str
    directory: Path
    runtime: ProcessRuntime

    @property
    def root(self) -> Path:
        return self.directory / "process"

    def adopt(self) -> ProcessRuntime:
        """What a hub has that starts now."""
        return ProcessRuntime(self.fleet, self.root)

    def run(self, *argv: str, name: str = "writer-0", **changes: Any) -> str:
        container_id = self.runtime.create(make_spec(name=name, argv=argv or SLEEP, **changes))
        self.runtime.start(container_id)
        return container_id

    def state(self, name: str = "writer-0") -> ContainerState:
        reading = self.runtime.inspect(name)
        assert isinstance(reading, Ok)
        return reading.value

    def listed(self) -> list[ContainerSummary]:
        reading = self.runtime.list()
        assert isinstance(reading, Ok)
        return list(reading.value)

    def await_exit(self, name: str = "writer-0") -> ContainerState:
        eventually(lambda: self.state(name).state == "exited")
        return self.state(name)

    def output(self, name: str = "writer-0") -> str:
        """All of it, once the container has exited."""
        self.await_exit(name)
        return self.runtime.logs(name, 1_000_000)

    def shim_pid(self, name: str = "writer-0") -> int:
        return int((self.root / name / "shim.pid").read_text().split()[0])

    def processes(self) -> set[int]:
        """All living processes that were started by this fleet, shims included."""
        return {
            int(entry)
            for entry in os.listdir("/proc")
            if entry.isdigit() and self._is_ours(Path("/proc", entry)) and is_alive(int(entry))
        }

    def _is_ours(self, process: Path) -> bool:
        try:
            return f"{MARKER}={self.fleet}/".encode() in (process / "environ").read_bytes()
        except OSError:
            return False


@contextmanager
def make_world() -> Iterator[World]:
    """In memory where that can be, as a hub's run-time directory is; not in pytest's, which is closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="reconciler-test-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    directory.chmod(0o711)
    fleet = uuid.uuid4().hex[:8]
    runtime = ProcessRuntime(fleet, directory / "process")
    made = World(fleet=fleet, directory=directory, runtime=runtime)
    try:
        yield made
        for summary in made.listed():
            runtime.remove(summary.id)
        eventually(lambda: made.processes() == set())
    finally:
        runtime.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def world() -> Iterator[World]:
    with make_world() as made:
        yield made


def make_spec(**changes: Any) -> ContainerSpec:
    defaults: dict[str, Any] = {
        "name": "writer-0",
        "image": "agents/base:1",
        "image_id": IMAGE_ID,
        "argv": SLEEP,
        "env": {},
        "labels": {},
        "limits": Limits(cpus=1.0, memory_bytes=256 * 2**20, pids=50),
        "mounts": (),
        "disk_bytes": 64 * 2**20,
        "grace_s": 5.0,
    }
    return ContainerSpec(**{**defaults, **changes})


def eventually(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Poll until `condition` holds; fail the test when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    process = read_process(pid)
    return process is not None and not process.ended
