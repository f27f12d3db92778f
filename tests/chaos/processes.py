"""The processes of a fleet as the host sees them, each by pid and start time, so that no other one is ever hit."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.site import Site
from tests.outside.checker import engine


@dataclass(frozen=True)
class Process:
    """`start` is field 22 of /proc/<pid>/stat."""

    pid: int
    start: int

    def send(self, number: signal.Signals) -> bool:
        """Whether it was there to take the signal."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if find(self.pid) == self:
                    signal.pidfd_send_signal(descriptor, number)
                    return True
            finally:
                os.close(descriptor)
        return False

    @property
    def command(self) -> bytes:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return b""

    def variable(self, name: str) -> str:
        """One of its environment; empty where it has none."""
        with suppress(OSError):
            for entry in Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(name.encode() + b"="):
                    return entry.partition(b"=")[2].decode()
        return ""

    @property
    def name(self) -> str:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/comm").read_text().strip()
        return ""

    @property
    def is_alive(self) -> bool:
        return find(self.pid) == self


def find(pid: int) -> Process | None:
    """The process of that pid; None where there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else Process(pid, int(fields[19]))


def from_file(path: Path) -> Process | None:
    """What a pid file names, by its first word."""
    with suppress(OSError, ValueError, IndexError):
        return find(int(path.read_text().split()[0]))
    return None


def children(process: Process) -> Iterator[Process]:
    """Whatever thread of it has started them."""
    with suppress(OSError):
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            with suppress(OSError):
                for pid in (thread / "children").read_text().split():
                    if (child := find(int(pid))) is not None:
                        yield child


def hub(site: Site) -> Process | None:
    return find(site.hub.pid) if site.hub is not None else None


def router(site: Site) -> Process | None:
    return from_file(site.run / "router.pid")


def egress(site: Site) -> Process | None:
    return from_file(site.run / "egress.pid")


def opa(site: Site) -> Process | None:
    return from_file(site.run / "opa" / "opa.pid")


def writer(site: Site) -> Process | None:
    owner = router(site)
    return next((c for c in children(owner) if c.name == "traffic-log"), None) if owner else None


def workers(site: Site) -> list[Process]:
    """Policy workers of hub and router."""
    owners = [p for p in (hub(site), router(site)) if p is not None]
    return [c for owner in owners for c in children(owner) if b"reconciler.policy.worker" in c.command]


def container(site: Site, instance: str) -> str | None:
    """The id of its container, told by the engine."""
    name = f"reconciler-{site.fleet.id}-{instance}"
    with suppress(AssertionError, OSError):
        return str(engine("GET", f"/containers/{name}/json")["Id"])
    return None


def root(site: Site, instance: str) -> Process | None:
    """The first process of an instance: its shim, or the container's init."""
    if site.runtime == "process":
        return from_file(site.run / "process" / instance / "shim.pid")
    with suppress(AssertionError, OSError):
        pid = int(engine("GET", f"/containers/reconciler-{site.fleet.id}-{instance}/json")["State"]["Pid"])
        return find(pid) if pid else None
    return None


def agentd(site: Site, instance: str) -> Process | None:
    first = root(site, instance)
    return next((c for c in children(first) if b"reconciler.agentd" in c.command), None) if first else None


def executors(site: Site, instance: str) -> list[Process]:
    """What carries out the tasks of an instance."""
    daemon = agentd(site, instance)
    return [c for c in children(daemon) if b"work.py" in c.command] if daemon else []


def strays(site: Site) -> list[str]:
    """Processes that name this fleet's folder and belong to none of its instances."""
    out: list[str] = []
    folder = str(site.fleet.folder).encode()
    known = {e.pid for i in site.instances() for e in executors(site, i)}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in known:
            continue
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if folder in command and b"bin/work.py" in command:
                out.append(f"pid {entry.name} executes a task for nobody: {command!r}")
    return out
