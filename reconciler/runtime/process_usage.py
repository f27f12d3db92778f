"""What a tree of processes uses, by `/proc`: processor time, memory, bytes read from and written to disks."""

import os
from contextlib import suppress
from pathlib import Path

from reconciler.ports import Usage
from reconciler.runtime.shim import find_descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def read_usage(root: int) -> Usage | None:
    """Of the process and all below it; None where it is gone. What may not be read counts as nothing."""
    whole = _of_one(root)
    if whole is None:
        return None
    parts = [whole, *filter(None, (_of_one(p.pid) for p in find_descendants({root}) if p.pid != root))]
    return Usage(
        cpu_s=sum(p.cpu_s for p in parts),
        memory_bytes=sum(p.memory_bytes for p in parts),
        read_bytes=sum(p.read_bytes for p in parts),
        written_bytes=sum(p.written_bytes for p in parts),
    )


def _of_one(pid: int) -> Usage | None:
    """Processor time includes that of children that have ended."""
    place = Path("/proc") / str(pid)
    try:
        stat = (place / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        resident = int((place / "statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    read_bytes = written_bytes = 0
    with suppress(OSError, ValueError, KeyError):
        lines = (line.partition(": ") for line in (place / "io").read_text(encoding="ascii").splitlines())
        moved = {name: int(value) for name, _, value in lines}
        read_bytes, written_bytes = moved["read_bytes"], moved["write_bytes"]
    return Usage(
        cpu_s=sum(int(ticks) for ticks in stat[11:15]) / _TICKS_PER_S,
        memory_bytes=resident * _PAGE_BYTES,
        read_bytes=read_bytes,
        written_bytes=written_bytes,
    )
