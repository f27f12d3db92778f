"""`audit`: the log as people read it beside git, the proof that nobody changed it, and what is handed to others."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.audit_books import Elsewhere, open_books
from reconciler.cli.options import data_option, operator_option, output_option, source_option
from reconciler.cli.output import print_json, say_why, table

if TYPE_CHECKING:
    from reconciler.audit.account import Account
    from reconciler.audit.period import Period
    from reconciler.store.audit import ChainedEntry

NEWEST = 30
MOST_DIFF_LINES = 400

key_option = click.option(
    "--public-key", default=None, metavar="KEY", help="The hub's, as noted elsewhere.  [default: hub.pub]"
)
from_option = click.option("--from", "since", default="", metavar="WHEN", help="2026-11-01, 2026-11-01T08:00 or 24h.")
to_option = click.option("--to", "until", default="", metavar="WHEN", help="The same; a day is included whole.")


@click.group(name="audit")
def audit_command() -> None:
    """Show, verify, export and report the audit log."""


@audit_command.command(name="show")
@click.argument("what", default="", metavar="[COMMIT|AGENT|TASK|TIME]")
@click.option("-n", "--count", default=0, metavar="N", help=f"At most the newest N rows.  [default: {NEWEST}, or all]")
@source_option
@data_option
@operator_option
@output_option
def show(what: str, count: int, source: str, data: str | None, operator: str | None, output: str) -> int:
    """Show rows: the newest, or those of a commit (with its diff), agent, task, or time such as 24h or A..B.

    agent/NAME and task/NAME say which is meant. The messages that were sent meanwhile stand below.
    """
    from reconciler.audit.account import as_json, give_account
    from reconciler.audit.export import as_dict
    from reconciler.store.audit import tail

    with open_books(source, data, operator) as books:
        if not what:
            rows = tail(books.store, count or NEWEST)
            if output == "json":
                print_json([as_dict(row) for row in rows])
            else:
                _print_rows(rows)
            return 0
        account = give_account(books.archive, what, datetime.now(UTC))
    if output == "json":
        print_json(as_json(account))
        return 0
    _print_account(account, count)
    return 0


@audit_command.command(name="verify")
@key_option
@click.option("--notes", default=None, metavar="PATH", help="Another clone, whose notes must agree too.")
@click.option("--checkpoints", default=None, metavar="FILE", help="What audit.sink got, which must agree too.")
@click.option("--no-containers", is_flag=True, help="Do not ask the engine, as for a copy of the data elsewhere.")
@source_option
@data_option
@operator_option
@output_option
def verify(
    public_key: str | None,
    notes: str | None,
    checkpoints: str | None,
    no_containers: bool,
    source: str,
    data: str | None,
    operator: str | None,
    output: str,
) -> int:
    """Prove the log: its chain, checkpoints, notes, the history of git, and what runs. Exit 1 names what is wrong."""
    with open_books(source, data, operator) as books:
        known = Elsewhere(public_key=public_key, notes=notes, checkpoints=checkpoints)
        verdict = books.verify(known, with_containers=not no_containers)
    if output == "json":
        print_json({**asdict(verdict), "anchored": verdict.anchored})
        return 1 if verdict.faults else 0
    for fault in verdict.faults:
        click.echo(f"{click.style('fault', fg='red')}      {fault.message}", err=True)
    for text in verdict.proven:
        click.echo(f"{click.style('proven', fg='green')}     {text}")
    for text in verdict.unchecked:
        click.echo(f"{click.style('unchecked', fg='yellow')}  {text}")
    click.echo(verdict.anchored)
    if verdict.faults:
        click.echo(f"the log cannot be trusted: {len(verdict.faults)} fault{'s' * (len(verdict.faults) > 1)}", err=True)
        return 1
    return 0


@audit_command.command(name="export")
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@from_option
@to_option
@source_option
@data_option
@operator_option
def export(format_: str, since: str, until: str, source: str, data: str | None, operator: str | None) -> int:
    """Write rows to standard output, oldest first, with every column."""
    from reconciler.audit.export import write_csv, write_jsonl
    from reconciler.store.audit import Choice, choose

    first, last = _period(since, until).texts
    with open_books(source, data, operator) as books:
        rows = choose(books.store, Choice(since=first, until=last))
        (write_jsonl if format_ == "jsonl" else write_csv)(rows, sys.stdout)
    return 0


@audit_command.command(name="report")
@from_option
@to_option
@key_option
@click.option("-f", "--file", default="-", metavar="FILE", help="Where to write it.  [default: standard output]")
@source_option
@data_option
@operator_option
def report(
    since: str, until: str, public_key: str | None, file: str, source: str, data: str | None, operator: str | None
) -> int:
    """Write one HTML page: who changed what, who approved it, what the hub did, and everything out of the ordinary."""
    from reconciler.audit.page import show_page
    from reconciler.errors import UsageError

    with open_books(source, data, operator) as books:
        page = show_page(books.report(_period(since, until), public_key))
    if file == "-":
        click.echo(page, nl=False)
        return 0
    try:
        Path(file).write_text(page, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{file} cannot be written: {exc.strerror}; name another with --file") from exc
    click.echo(f"written: {file}")
    return 0


def _period(since: str, until: str) -> "Period":
    from reconciler.audit.period import parse_span
    from reconciler.errors import UsageError

    period = parse_span(since, until, datetime.now(UTC))
    if period is None:
        raise UsageError("--from and --to take 2026-11-21, 2026-11-21T08:00 (UTC), or how long ago, such as 24h")
    if period.since and period.until and period.since >= period.until:
        raise UsageError("--to is before --from; nothing lies between them")
    return period


# --- showing ----------------------------------------------------------------------------------------------------------


def _print_account(account: "Account", count: int) -> None:
    from reconciler.audit.report import commit_people

    click.echo(click.style(account.title, bold=True))
    if account.commit is not None:
        for who in commit_people(account.commit):
            click.echo(f"  {who}")
        click.echo("".join(f"\n    {line}" for line in account.commit.message.split("\n")) + "\n")
    if account.note is not None:
        click.echo(f"note: {account.note.outcome}, {account.note.changes}; anchors row {account.note.seq}")
    for remark in account.remarks:
        click.echo(click.style(remark, fg="yellow"))
    if account.diff:
        click.echo(f"what it changed since {account.base[:12] or 'nothing'}:\n")
        _print_diff(account.diff.rstrip("\n").split("\n"))
    rows = account.rows[-count:] if count else account.rows
    click.echo(f"what the hub did: {len(account.rows)} rows\n")
    _print_rows(rows)
    if account.policies:
        click.echo(f"\npolicies that were asked: {', '.join(account.policies)}")
    if account.messages:
        click.echo("\nmessages meanwhile:\n")
        table(
            ("COUNT", "VERDICT", "FROM", "TO", "TYPE", "CODE"),
            (
                (str(m.count), m.verdict, m.agent[:20], m.recipient[:24], _plain(m.type)[:24], m.code)
                for m in account.messages
            ),
        )


def _print_diff(lines: Sequence[str]) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines[:MOST_DIFF_LINES]:
        click.echo(click.style(line, fg=colours.get(line[:1])))
    if len(lines) > MOST_DIFF_LINES:
        click.echo(f"({len(lines) - MOST_DIFF_LINES} more lines; git shows them)")
    click.echo()


def _print_rows(rows: "Iterable[ChainedEntry]") -> None:
    table(
        ("SEQ", "TIME", "REVISION", "CAUSE", "UNIT", "ACTION", "OUTCOME", "REASON"),
        (
            (
                str(r.seq),
                r.entry.time[5:19].replace("T", " "),
                r.entry.revision[:8],
                r.entry.cause,
                _plain(f"{r.entry.kind}/{r.entry.name}")[:28],
                _plain(r.entry.action)[:14],
                r.entry.outcome,
                _plain(say_why(r.entry))[:200],
            )
            for r in rows
        ),
        as_lines=True,
    )


def _plain(text: str) -> str:
    """What does not print is shown as a dot: texts come from agents and file names."""
    return "".join(c if c.isprintable() else "·" for c in text)
