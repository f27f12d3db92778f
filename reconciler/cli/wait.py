"""`wait`: until an agent, a task or the whole fleet is as somebody needs it. Reads only; the hub may restart."""

import sys
import time
from typing import TYPE_CHECKING

import click

from reconciler.cli.options import data_option, output_option, source_option
from reconciler.cli.output import print_json

if TYPE_CHECKING:
    from reconciler.cli.waiting import Goal, Seen

POLL_S = 0.5
QUIET_S = 1.0
"""Who waits no longer than this is not told what for."""


@click.command(name="wait")
@click.argument("subject", default=None, required=False, metavar="[KIND/NAME]")
@click.option("--for", "state", required=True, metavar="STATE", help="What it is to be.")
@click.option("--timeout", default="5m", show_default=True, metavar="TIME", help="How long at most; 0s looks once.")
@source_option
@data_option
@output_option
def wait_command(subject: str | None, state: str, timeout: str, source: str, data: str | None, output: str) -> int:
    """Wait until agent/NAME, task/NAME or the fleet is as --for says.

    Agents: ready, drained, quarantined, suspended, gone. Tasks: succeeded, failed, ended, suspended. The fleet:
    converged, revision=REV. Exit 0 when it came true, 1 when it cannot any more, 2 when the time is over.
    """
    from datetime import UTC, datetime

    from reconciler.cli.waiting import Outlook, parse_goal

    seen = await_goal(parse_goal(subject, state, datetime.now(UTC)), _read_timeout(timeout), source, data)
    if output == "json":
        print_json({"subject": subject or "fleet", "for": state, "outlook": seen.outlook, "message": seen.message})
    elif seen.outlook is Outlook.TRUE:
        click.echo(seen.message)
    elif seen.outlook is Outlook.NEVER:
        click.echo(f"error: {seen.message}", err=True)
    else:
        click.echo(f"error: after {timeout} {seen.message}", err=True)
    return {Outlook.TRUE: 0, Outlook.NEVER: 1, Outlook.NOT_YET: 2}[seen.outlook]


def _read_timeout(text: str) -> float:
    from reconciler.core.quantity import parse_duration_s
    from reconciler.errors import UsageError

    try:
        return parse_duration_s(text)
    except ValueError as exc:
        raise UsageError(f"--timeout: {exc}") from exc


def await_goal(goal: "Goal", timeout_s: float, source: str, data: str | None) -> "Seen":
    """What was seen last: it has come true, or cannot, or the time is over. Raises UsageError where there is no fleet.

    On a terminal it is said what is waited for, whenever that changes.
    """
    from reconciler.cli.waiting import Outlook

    began, told = time.monotonic(), ""
    while True:
        waited_s = time.monotonic() - began
        seen = _look(goal, source, data)
        if seen.outlook is not Outlook.NOT_YET or waited_s >= timeout_s:
            return seen
        if waited_s >= QUIET_S and seen.message != told and sys.stderr.isatty():
            told = seen.message
            click.echo(f"waiting: {told}", err=True)
        time.sleep(min(POLL_S, timeout_s - waited_s))


def _look(goal: "Goal", source: str, data: str | None) -> "Seen":
    from reconciler.cli.reading import read_fleet

    fleet = read_fleet(source, data, 1)
    try:
        return goal(fleet)
    finally:
        fleet.store.close()
