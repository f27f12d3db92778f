"""The directory of one container of the process runtime, and what its files say.

    spec.json   what it shall be; written by the hub, durable
    launch      what to start; taken away by the shim, or by whoever revokes the start
    shim.pid    which process is the shim; state.json: how the run goes or went (see `shim.py`)
    log, log.1  its output
    home, tmp   private to the instance, new at each start

Files come in, frozen values go out. Effects: `write_record` and `write_end` only.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import msgspec

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.ports import ContainerSpec, Limits
from reconciler.runtime import shim
from reconciler.runtime.process_cgroup import CPU_PERIOD_US, PAGE_BYTES
from reconciler.runtime.sandbox import FLEET_LABEL

SPEC = "spec.json"
HOME, TMP = "home", "tmp"
KILLED = 137


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`spec.json`. `uid` is the instance's own user id; None where it runs as the hub's user."""

    format: int = 1
    id: str
    fleet: str
    uid: int | None
    spec: ContainerSpec

    @property
    def labels(self) -> dict[str, str]:
        """All labels; the fleet's is the runtime's own and wins."""
        return {**self.spec.labels, FLEET_LABEL: self.fleet}


class Phase(StrEnum):
    """`LOST` is a run whose shim ended without saying how the instance did."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimProcess:
    """`shim.pid`: a process is identified by number, start time and boot together."""

    pid: int
    start: int
    boot_id: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`state.json`. `token` tells one start from the next; `pid` is that of the program."""

    token: str
    state: str
    pid: int = 0
    started_at: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """`shim` is the living one, else None."""

    phase: Phase
    run: Run | None = None
    shim: ShimProcess | None = None

    @property
    def is_starting(self) -> bool:
        """Whether there is a shim, but no word from it yet that the program runs."""
        return self.shim is not None and (self.run is None or self.run.token != self.shim.token)


_RECORDS = msgspec.json.Decoder(Record)
_RUNS = msgspec.json.Decoder(Run)


def read_record(path: str) -> Reading[Record]:
    """The record in the container's directory; `Unavailable` when it is damaged. Raises OSError."""
    try:
        return Ok(_RECORDS.decode(shim.read_bytes(f"{path}/{SPEC}")))
    except (FileNotFoundError, NotADirectoryError):
        return Unavailable(reason=f"{path}: no {SPEC}") if os.path.isdir(path) else Absent()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Unavailable(reason=f"{path}/{SPEC}: {error}")


def write_record(path: str, record: Record) -> None:
    """Raises OSError."""
    content = msgspec.json.format(msgspec.json.encode(record), indent=2)
    shim.write_atomically(f"{path}/{SPEC}", content, sync=True)


def write_end(path: str, seen: Observed) -> None:
    """Write down for a lost shim that its run has ended, and nobody knows how. Raises OSError."""
    before = seen.run or Run(token="", state="")
    run = replace(before, state=Phase.EXITED, exit_code=KILLED)
    shim.write_atomically(f"{path}/{shim.STATE}", msgspec.json.encode(run))


def observe(path: str, boot_id: str) -> Observed:
    """What goes on in the directory. Raises OSError.

    The shim is looked at before the state: a shim that ended properly wrote its state before.
    """
    while True:
        process = _read_shim(path)
        is_alive = process is not None and is_shim_alive(process, boot_id)
        run = _read_run(path)
        if process == _read_shim(path):
            break
    if run is not None and run.state == Phase.EXITED and (not is_alive or _is_same(process, run)):
        return Observed(phase=Phase.EXITED, run=run)
    if is_alive:
        return Observed(phase=Phase.RUNNING, run=run, shim=process)
    if process is None and run is None:
        return Observed(phase=Phase.CREATED)
    return Observed(phase=Phase.LOST, run=run)


def is_shim_alive(process: ShimProcess, boot_id: str) -> bool:
    """Whether exactly that process still runs."""
    if process.boot_id != boot_id:
        return False
    now = shim.read_process(process.pid)
    return now is not None and now.start == process.start and not now.ended


def compared_fields(spec: ContainerSpec, fleet: str, enforced: frozenset[str], *, has_own_uid: bool) -> dict[str, Any]:
    """The compared fields of a spec in plain JSON; a limit that nothing enforces is None. Pure."""
    return {
        "user": "own" if has_own_uid else "hub",
        "uid": spec.uid,
        "disk_bytes": spec.disk_bytes,
        "image_id": spec.image_id,
        "argv": list(spec.argv),
        "env": dict(spec.env),
        "labels": {**spec.labels, FLEET_LABEL: fleet},
        "working_dir": os.path.normpath(spec.working_dir),
        "limits": _limit_fields(spec.limits, enforced),
        "mounts": {
            os.path.normpath(m.target): {
                "source": os.path.normpath(m.source),
                "read_only": m.read_only,
            }
            for m in spec.mounts
        },
    }


def _limit_fields(limits: Limits, enforced: frozenset[str]) -> Mapping[str, float | int | None]:
    """In the steps in which a kernel keeps them."""
    quota_us = max(1000, round(limits.cpus * CPU_PERIOD_US))
    fields = {
        "cpus": quota_us / CPU_PERIOD_US,
        "memory_bytes": limits.memory_bytes // PAGE_BYTES * PAGE_BYTES,
        "pids": limits.pids,
    }
    return {key: value if key in enforced else None for key, value in fields.items()}


def _is_same(process: ShimProcess | None, run: Run) -> bool:
    return process is not None and process.token == run.token


def _read_shim(path: str) -> ShimProcess | None:
    try:
        pid, start, boot_id, token = shim.read_bytes(f"{path}/{shim.PID}").decode().split()
        return ShimProcess(pid=int(pid), start=int(start), boot_id=boot_id, token=token)
    except (FileNotFoundError, ValueError):
        return None


def _read_run(path: str) -> Run | None:
    try:
        return _RUNS.decode(shim.read_bytes(f"{path}/{shim.STATE}"))
    except (FileNotFoundError, msgspec.DecodeError):
        return None
