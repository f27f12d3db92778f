"""Which process a pid means: by its start time too, since a pid alone may be another's by now."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """`start_ticks` is field 22 of /proc/<pid>/stat: clock ticks since boot."""

    pid: int
    start_ticks: int


def read_process(pid: int) -> ProcessId | None:
    """The process of that pid, or None where there is none or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else ProcessId(pid=pid, start_ticks=int(fields[19]))
