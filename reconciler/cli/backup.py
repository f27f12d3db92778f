"""`backup` and `restore`: a fleet's data directory into one file, also while its hub runs, and back."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.caller import caller_options, check_reason, note_by_hand
from reconciler.cli.options import data_option, operator_option, output_option, source_option
from reconciler.core.caller import Caller

if TYPE_CHECKING:
    from reconciler.store.backup import Contents


@click.command(name="backup")
@click.argument("file", type=click.Path(dir_okay=False))
@source_option
@data_option
@output_option
def backup_command(file: str, source: str, data: str | None, output: str) -> int:
    """Copy the data directory into FILE: databases, keys, artefacts, evidence and workspaces. The hub may run.

    FILE holds the fleet's key and all that tasks were given and gave. Only its owner may read it; keep it so.
    """
    from reconciler.errors import UsageError
    from reconciler.home import data_folder, open_home
    from reconciler.store.backup import write_backup

    state = data_folder(source, data)
    home = open_home(state, create=False)
    if home is None:
        raise UsageError(f"there is no fleet in {state}; name it with --data")
    target = Path(file).absolute()
    if target.parent.is_relative_to(state):
        raise UsageError(f"{target} is inside of the data directory; it would be lost with it")
    contents = write_backup(state, target, home.fleet, datetime.now(UTC))
    _say("backed up", target, state, contents, output)
    return 0


@click.command(name="restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--replace", is_flag=True, help="Move what is in the data directory aside, into a folder in it.")
@caller_options
@source_option
@data_option
@operator_option
@output_option
def restore_command(
    file: str, replace: bool, caller: Caller, source: str, data: str | None, operator: str | None, output: str
) -> int:
    """Put a backup into the data directory, which must be empty, and whose hub must not run.

    Agents go on. The next `run` adopts those that the backup knows.
    """
    from reconciler.cli.output import print_problems
    from reconciler.home import data_folder, lock, open_home, read_operator, run_folder
    from reconciler.router.supervise import stop_router
    from reconciler.store.backup import put_in_place, unpack_backup

    spec, problems = read_operator(operator)
    if problems:
        print_problems(problems)
        return 1
    check_reason(caller, spec)
    state = data_folder(source, data)
    with lock(state):
        contents = unpack_backup(Path(file).absolute(), state, replace=replace)
        before = open_home(state, create=False)
        # A router that goes on while no hub runs has the message log open.
        for fleet in {contents.fleet, *([before.fleet] if before else [])}:
            stop_router(run_folder(fleet))
        put_in_place(state, datetime.now(UTC))
        # What follows this row may repeat what followed the backup.
        reason = f"the backup of {contents.made_at} was restored; {caller.asked}"
        note_by_hand(state, contents.fleet, "restore", caller, reason)
    _say("restored", Path(file).absolute(), state, contents, output)
    return 0


def _say(done: str, file: Path, state: Path, contents: "Contents", output: str) -> None:
    from reconciler.cli.output import print_json
    from reconciler.core.quantity import show_size

    if output == "json":
        print_json(
            {
                "file": str(file),
                "data": str(state),
                "fleet": contents.fleet,
                "schema": contents.schema,
                "made_at": contents.made_at,
                "files": len(contents.files),
                "size_bytes": contents.size_bytes,
            }
        )
        return
    size = show_size(contents.size_bytes)
    click.echo(f"{done}: fleet {contents.fleet}, {len(contents.files)} files, {size}, as of {contents.made_at}")
