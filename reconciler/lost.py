"""What still runs of fleets whose data directory was lost: found by the directory that they were made from.

Containers carry its path in a label, instances of the process runtime in their record, and the run-time directory in
the file `home`, which is how a router is found that has no instances any more.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reconciler.core.reading import Ok, Reading, Unavailable
from reconciler.home import HOME_FILE, run_folder
from reconciler.identity.seal import FLEET_LABEL, HOME_LABEL

ROUTER = "its router"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One thing that a lost fleet runs, and what removes it, which may raise any ReconcilerError.

    `is_process` is False for a container; `is_router` marks what ends with the run-time directory.
    """

    fleet: str
    name: str
    remove: Callable[[], None] = lambda: None
    is_process: bool = True
    is_router: bool = False


def lost_containers(state: Path, own: str) -> Reading[Sequence[Leftover]]:
    """Containers that were made from this data directory by another fleet than `own`, which it holds now."""
    from reconciler.runtime.docker import DockerRuntime

    engine = DockerRuntime("lost")
    found = engine.list_labelled(HOME_LABEL, str(state))
    engine.close()
    if not isinstance(found, Ok):
        return Unavailable(reason=found.reason if isinstance(found, Unavailable) else "no engine")
    return Ok(
        [
            Leftover(fleet=fleet, name=c.name, remove=partial(DockerRuntime(fleet).remove, c.id), is_process=False)
            for c in found.value
            if (fleet := c.labels.get(FLEET_LABEL, own)) != own
        ]
    )


def lost_processes(state: Path, own: str) -> Sequence[Leftover]:
    """The same of instances that are plain processes, and of routers.

    The proof is a run-time directory of this very user's that names this data directory, itself or in the record of an
    instance. What is damaged in such a directory is of that fleet, too.
    """
    out: list[Leftover] = []
    for run in sorted(run_folder(own or "unknown").parent.glob("*/")):
        if run.name != own:
            out.extend(_in_run(run, state))
    return out


def _in_run(run: Path, state: Path) -> Iterator[Leftover]:
    from reconciler.router.pidfile import read_pid_file
    from reconciler.runtime.process import ProcessRuntime

    fleet, root = run.name, run / "process"
    names_it = _is_mine(run) and _read(run / HOME_FILE) == str(state)
    if _is_mine(root):
        names = [p.name for p in sorted(root.iterdir()) if not p.name.startswith(".")]
        if names_it or any(_is_made_from(root / name, fleet, state) for name in names):
            remove = ProcessRuntime(fleet, root).remove
            yield from (Leftover(fleet=fleet, name=name, remove=partial(remove, name)) for name in names)
    if names_it and read_pid_file(run) is not None:
        yield Leftover(fleet=fleet, name=ROUTER, is_router=True)


def _is_mine(folder: Path) -> bool:
    try:
        return folder.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, ValueError):
        return ""


def _is_made_from(instance: Path, fleet: str, state: Path) -> bool:
    from reconciler.runtime.process_record import read_record

    found = read_record(str(instance))
    return isinstance(found, Ok) and found.value.fleet == fleet and found.value.labels.get(HOME_LABEL) == str(state)
