"""New limits for a running instance of the process runtime, without a restart.

In: the record, the new limits, the host. Effects: cgroup files are written where a cgroup enforces
a limit, resource limits of the instance's processes are set where those do.
"""

import resource
from contextlib import suppress
from typing import NoReturn

from reconciler.errors import RuntimeRefusedError
from reconciler.ports import Limits
from reconciler.runtime.process_host import Host
from reconciler.runtime.process_record import Record
from reconciler.runtime.shim import find_descendants

_ROUNDS = 20


def apply_limits(record: Record, limits: Limits, host: Host, shim_pid: int) -> None:
    """Set what something enforces; the rest is only written down, which is the caller's.

    Raises RuntimeRefusedError when it cannot be done in place.
    """
    used_bytes = _measure_memory(record, host)
    if used_bytes > limits.memory_bytes:
        # Its pydantic takes a quarter of this runtime's import time.
        from reconciler.core.quantity import show_size

        raise RuntimeRefusedError(
            f"it uses {show_size(used_bytes)} of memory, more than the new limit of {show_size(limits.memory_bytes)}"
        )
    try:
        _apply(record, limits, host, shim_pid)
    except OSError as error:
        with suppress(OSError):
            host.cgroups.apply(record.spec.name, record.spec.limits)
        _refuse(error)


def _apply(record: Record, limits: Limits, host: Host, shim_pid: int) -> None:
    """Raises OSError; then no resource limit is changed, as only raising one fails, and those come first."""
    before = record.spec.limits
    host.cgroups.apply(record.spec.name, limits)
    changes = [
        (resource.RLIMIT_DATA, "memory_bytes", before.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_NPROC, "pids", before.pids, limits.pids),
    ]
    for which, name, old, new in sorted(changes, key=lambda change: change[3] <= change[2]):
        if old != new and name in host.enforced - host.cgroups.enforced:
            _set_rlimit(which, new, shim_pid)


def _measure_memory(record: Record, host: Host) -> int:
    try:
        return host.cgroups.memory_in_use_bytes(record.spec.name)
    except OSError as error:
        _refuse(error)


def _set_rlimit(which: int, value: int, shim_pid: int) -> None:
    """On every process below the shim, again until none is new: a fork copies the old limit."""
    done: set[tuple[int, int]] = set()
    for _ in range(_ROUNDS):
        found = {(p.pid, p.start) for p in find_descendants({shim_pid})}
        if found <= done:
            return
        for pid, _start in found - done:
            try:
                resource.prlimit(pid, which, (value, value))
            except ProcessLookupError:
                continue
        done |= found
    raise RuntimeRefusedError("it starts processes faster than their limits can be set")


def _refuse(error: OSError) -> NoReturn:
    raise RuntimeRefusedError(f"the limits of a running instance cannot be set: {error}") from error
