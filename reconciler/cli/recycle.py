"""`recycle`: remove what runs of a fleet whose data directory was lost, on either runtime."""

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from reconciler.cli.caller import caller_options, check_reason, note_by_hand
from reconciler.cli.options import data_option, operator_option, source_option
from reconciler.core.caller import Caller

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.lost import Leftover


@click.command(name="recycle")
@click.option(
    "--confirm", default=None, metavar="FLEET", help="The lost fleet to remove, as listed without this option."
)
@caller_options
@source_option
@data_option
@operator_option
def recycle_command(confirm: str | None, caller: Caller, source: str, data: str | None, operator: str | None) -> int:
    """Remove what runs of a fleet whose data directory was lost. Exit 3 until the fleet is confirmed."""
    from reconciler.core.reading import Ok, Unavailable
    from reconciler.home import data_folder, open_home
    from reconciler.lost import lost_containers, lost_processes

    state = data_folder(source, data)
    home = open_home(state, create=False)
    own = home.fleet if home is not None else ""
    found = lost_containers(state, own)
    leftovers = [*(found.value if isinstance(found, Ok) else ()), *lost_processes(state, own)]
    by_fleet = {f: [x for x in leftovers if x.fleet == f] for f in sorted({x.fleet for x in leftovers})}
    if isinstance(found, Unavailable) and not _are_processes(by_fleet):
        click.echo(f"{'note' if leftovers else 'error'}: containers cannot be looked for: {found.reason}", err=True)
    if not leftovers:
        if isinstance(found, Ok):
            click.echo(f"nothing runs of a lost fleet of {state}")
        return 0 if isinstance(found, Ok) else 1
    if confirm is None or confirm not in by_fleet:
        if confirm is not None:
            click.echo(f"error: no lost fleet {confirm} was made from {state}; nothing was removed", err=True)
        _list(by_fleet)
        return 3
    if not _may_remove(caller, operator):
        return 1
    _remove(confirm, by_fleet[confirm], state)
    _record(confirm, caller, state)
    return 0


def _may_remove(caller: Caller, operator: str | None) -> bool:
    """Whether operator.yaml can be read; a reason that it wants is there then. Raises UsageError."""
    from reconciler.cli.output import print_problems
    from reconciler.home import read_operator

    spec, problems = read_operator(operator)
    if problems:
        print_problems(problems)
        return False
    check_reason(caller, spec)
    return True


def _are_processes(by_fleet: "Mapping[str, Sequence[Leftover]]") -> bool:
    """Whether each lost fleet ran its agents as plain processes, so that none has containers."""
    return bool(by_fleet) and all(any(x.is_process and not x.is_router for x in of) for of in by_fleet.values())


def _list(by_fleet: "Mapping[str, Sequence[Leftover]]") -> None:
    for fleet, leftovers in by_fleet.items():
        instances = [x.name for x in leftovers if not x.is_router]
        count = f"{len(instances)} instance{'s' if len(instances) != 1 else ''}"
        names = ", ".join(instances[:5]) + (" …" if len(instances) > 5 else "")
        click.echo(f"fleet {fleet}: {count} ({names or 'only its router'})")
        click.echo(f"remove them with: reconciler recycle --confirm {fleet}")


def _remove(fleet: str, leftovers: "Sequence[Leftover]", state: "Path") -> None:
    """End every instance, then what they shared. Raises ReconcilerError; a later call goes on from there."""
    from reconciler.egress.client import EgressLink
    from reconciler.home import run_folder
    from reconciler.policy.opa_process import stop_opa
    from reconciler.router.supervise import stop_router

    for leftover in leftovers:
        if not leftover.is_router:
            leftover.remove()
            click.echo(f"removed {leftover.name}")
    run = run_folder(fleet)
    stop_router(run)
    stop_opa(run)
    EgressLink(fleet, run, state).stop()
    shutil.rmtree(run, ignore_errors=True)
    click.echo(f"ended the router of fleet {fleet} and removed its sockets and tokens")


def _record(fleet: str, caller: Caller, state: "Path") -> None:
    """A row of the audit log, where there still is one and no hub has it open. Raises StoreError."""
    from reconciler.home import is_locked
    from reconciler.store.store import FILE_NAME

    if not (state / FILE_NAME).exists() or is_locked(state):
        click.echo(f"note: {state} has no log that is this fleet's, so that no row says who asked", err=True)
        return
    note_by_hand(state, fleet, "recycle", caller, caller.asked)
