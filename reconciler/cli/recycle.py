"""`recycle`: remove what runs of a fleet whose data directory was lost, on either runtime."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.options import data_option, source_option

if TYPE_CHECKING:
    from reconciler.core.reading import Reading
    from reconciler.ports import ContainerSummary
    from reconciler.runtime.process_record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leftover:
    """One instance of a lost fleet, and what removes it."""

    fleet: str
    name: str
    remove: Callable[[], None]


@click.command(name="recycle")
@click.option(
    "--confirm", default=None, metavar="FLEET", help="The lost fleet to remove, as listed without this option."
)
@source_option
@data_option
def recycle_command(confirm: str | None, source: str, data: str | None) -> int:
    """Remove what runs of a fleet whose data directory was lost. Exit 3 until the fleet is confirmed."""
    from reconciler.core.reading import Ok, Unavailable
    from reconciler.home import data_folder, open_home
    from reconciler.identity.seal import HOME_LABEL
    from reconciler.runtime.docker import DockerRuntime

    state = data_folder(source, data)
    home = open_home(state, create=False)
    own = home.fleet if home is not None else ""
    found = DockerRuntime("recycle").list_labelled(HOME_LABEL, str(state))
    leftovers = [*_containers(found.value if isinstance(found, Ok) else (), own), *_processes(state, own)]
    if not isinstance(found, Ok):
        reason = found.reason if isinstance(found, Unavailable) else "no engine"
        click.echo(f"{'note' if leftovers else 'error'}: the engine cannot be read: {reason}", err=True)
    if not leftovers:
        if isinstance(found, Ok):
            click.echo(f"nothing runs of a lost fleet of {state}")
        return 0 if isinstance(found, Ok) else 1
    by_fleet = {f: [x for x in leftovers if x.fleet == f] for f in sorted({x.fleet for x in leftovers})}
    if confirm not in by_fleet:
        _list(by_fleet)
        return 3
    _remove(confirm, by_fleet[confirm])
    return 0


def _containers(found: "Sequence[ContainerSummary]", own: str) -> list[_Leftover]:
    """Containers that were made from this data directory by another fleet than the one it holds now."""
    from reconciler.identity.seal import FLEET_LABEL
    from reconciler.runtime.docker import DockerRuntime

    return [
        _Leftover(fleet=fleet, name=c.name, remove=partial(DockerRuntime(fleet).remove, c.id))
        for c in found
        if (fleet := c.labels.get(FLEET_LABEL, own)) != own
    ]


def _processes(state: Path, own: str) -> list[_Leftover]:
    """The same of the process runtime.

    The proof is a run-time directory of this very user's, with a record in it that names the fleet and this data
    directory. What is damaged in such a directory is of that fleet, too.
    """
    from reconciler.home import run_folder
    from reconciler.runtime.process import ProcessRuntime
    from reconciler.runtime.process_record import read_record

    leftovers: list[_Leftover] = []
    for root in sorted(run_folder(own or "unknown").parent.glob("*/process")):
        fleet = root.parent.name
        if fleet == own or root.stat().st_uid != os.geteuid():
            continue
        records = {p.name: read_record(str(p)) for p in sorted(root.iterdir()) if not p.name.startswith(".")}
        if any(_is_made_from(record, fleet, state) for record in records.values()):
            remove = ProcessRuntime(fleet, root).remove
            leftovers += [_Leftover(fleet=fleet, name=name, remove=partial(remove, name)) for name in records]
    return leftovers


def _is_made_from(record: "Reading[Record]", fleet: str, state: Path) -> bool:
    from reconciler.core.reading import Ok
    from reconciler.identity.seal import HOME_LABEL

    return isinstance(record, Ok) and record.value.fleet == fleet and record.value.labels.get(HOME_LABEL) == str(state)


def _list(by_fleet: Mapping[str, Sequence[_Leftover]]) -> None:
    for fleet, leftovers in by_fleet.items():
        count = f"{len(leftovers)} instance{'s' if len(leftovers) != 1 else ''}"
        names = ", ".join(x.name for x in leftovers[:5]) + (" …" if len(leftovers) > 5 else "")
        click.echo(f"fleet {fleet}: {count} ({names})")
        click.echo(f"remove them with: reconciler recycle --confirm {fleet}")


def _remove(fleet: str, leftovers: Sequence[_Leftover]) -> None:
    """End every instance, then router and OPA, then what they shared. Raises ReconcilerError; a later call goes on."""
    from reconciler.home import run_folder
    from reconciler.policy.opa_process import stop_opa
    from reconciler.router.supervise import stop_router

    for leftover in leftovers:
        leftover.remove()
        click.echo(f"removed {leftover.name}")
    run = run_folder(fleet)
    stop_router(run)
    stop_opa(run)
    shutil.rmtree(run, ignore_errors=True)
    click.echo(f"ended the router of fleet {fleet} and removed its sockets and tokens")
