"""`events`: rows of the audit log as a stream: changes and their outcomes, conditions, what operators asked for."""

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.options import data_option, output_option, source_option
from reconciler.cli.output import program, say_why

if TYPE_CHECKING:
    from reconciler.store.audit import ChainedEntry, Choice

NEWEST = 30
FOLLOW_S = 0.5
LINE = "{seq:>6} {time:<14} {unit:<26} {action:<14} {outcome:<8} {reason}"
REASON_WIDTH = 27


@click.command(name="events")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"At most the newest N.  [default: {NEWEST}, or all since]",
)
@click.option("--kind", default="", metavar="KIND", help="Of this kind, such as agent, task or condition.")
@click.option("--name", default="", metavar="NAME", help="Of this resource; '*' stands for any text.")
@click.option("--action", default="", metavar="ACTION", help="Such as create or Suspended; '*' stands for any text.")
@click.option("--since", default="", metavar="WHEN", help="From then on: 10m, 2026-11-21, or 2026-11-21T08:00.")
@source_option
@data_option
@output_option
def events_command(
    follow: bool,
    count: int | None,
    kind: str,
    name: str,
    action: str,
    since: str,
    source: str,
    data: str | None,
    output: str,
) -> int:
    """Show what happened, oldest first; with -o json one JSON object per line, with every column."""
    from reconciler.store.audit import Choice

    file = _file(source, data)
    choice = Choice(kind=kind, name=name, action=action, since=_read_since(since))
    most = count if count is not None or since else NEWEST
    try:
        if output == "table":
            titles = {"seq": "SEQ", "time": "TIME", "unit": "UNIT", "action": "ACTION", "outcome": "OUTCOME"}
            click.echo(LINE.format(**titles, reason="REASON"))
        for row in _read(file, choice, most, follow=follow):
            click.echo(_show_json(row) if output == "json" else _show_line(row))
    except BrokenPipeError:
        # What is left in the buffer has to go somewhere when this process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _file(source: str, data: str | None) -> Path:
    from reconciler.errors import UsageError
    from reconciler.home import data_folder
    from reconciler.store.store import FILE_NAME

    file = data_folder(source, data) / FILE_NAME
    if not file.exists():
        raise UsageError(
            f"there is no fleet in {file.parent} yet; start one with `{program()} run`, or name it with --data"
        )
    return file


def _read_since(text: str) -> str:
    from datetime import UTC, datetime

    from reconciler.audit.period import parse_span
    from reconciler.errors import UsageError

    period = parse_span(text, "", datetime.now(UTC))
    if period is None:
        raise UsageError("--since takes 2026-11-21, 2026-11-21T08:00 (UTC), or how long ago, such as 10m")
    return period.texts[0]


def _read(file: Path, choice: "Choice", most: int | None, *, follow: bool) -> "Iterator[ChainedEntry]":
    """Rows in the order of their seq, each once: the newest `most`, or all; with `follow` also what comes.

    The newest seq is read before the rows, so that none can come between. The file is opened for each look, since it
    may be another one after a restart. Raises StoreError.
    """
    from reconciler.store.audit import choose, newest
    from reconciler.store.store import Store

    last = 0
    interrupts = _note_interrupts() if follow else []
    while True:
        with closing(Store(file, read_only=True)) as store:
            upto, _ = newest(store)
            if most != 0:
                for row in choose(store, replace(choice, after_seq=last), most or 0):
                    yield row
                    upto = max(upto, row.seq)
                    if interrupts:
                        raise KeyboardInterrupt
        last, most = max(last, upto), None
        if not follow or not _has_reader(FOLLOW_S):
            return
        if interrupts:
            raise KeyboardInterrupt


def _note_interrupts() -> list[int]:
    """Signals that came: raised inside a library's finalizer, Python or the library would swallow the exception."""
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    return came


def _has_reader(wait_s: float) -> bool:
    """Wait so long; False as soon as nobody reads standard output any more."""
    sys.stdout.flush()
    gone = select.poll()
    gone.register(sys.stdout, 0)
    return not gone.poll(wait_s * 1000)


def _show_json(row: "ChainedEntry") -> str:
    from reconciler.audit.export import as_dict

    return json.dumps(as_dict(row), ensure_ascii=False)


def _show_line(row: "ChainedEntry") -> str:
    """Within 100 columns; what does not print is shown as a dot."""
    entry = row.entry
    reason = say_why(entry)
    line = LINE.format(
        seq=row.seq,
        time=entry.time[5:19].replace("T", " "),
        unit=_cut(f"{entry.kind}/{entry.name}", 26),
        action=_cut(entry.action, 14),
        outcome=entry.outcome,
        reason=_cut(reason, REASON_WIDTH),
    ).rstrip()
    return "".join(c if c.isprintable() else "·" for c in line)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
