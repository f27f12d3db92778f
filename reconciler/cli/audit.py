"""`audit`: the log as people read it, and the proof that nobody changed it."""

import click

from reconciler.cli.options import data_option, output_option, source_option
from reconciler.cli.output import print_json, table


@click.group(name="audit")
def audit_command() -> None:
    """Show and verify the audit log."""


@audit_command.command(name="show")
@click.option("-n", "--count", default=30, show_default=True, help="How many rows.")
@source_option
@data_option
@output_option
def show(count: int, source: str, data: str | None, output: str) -> int:
    """Show the newest rows."""
    from reconciler.cli.reading import read_fleet
    from reconciler.store.audit import COLUMNS, tail

    rows = tail(read_fleet(source, data).store, count)
    if output == "json":
        print_json(
            [{"seq": r.seq, **{c: getattr(r.entry, c) for c in COLUMNS}, "prev": r.prev, "hash": r.hash} for r in rows]
        )
        return 0
    table(
        ("SEQ", "TIME", "REVISION", "CAUSE", "UNIT", "ACTION", "OUTCOME", "REASON"),
        (
            (
                str(r.seq),
                r.entry.time[11:19],
                r.entry.revision[:8],
                r.entry.cause,
                f"{r.entry.kind}/{r.entry.name}"[:28],
                r.entry.action[:14],
                r.entry.outcome,
                r.entry.reason[:200],
            )
            for r in rows
        ),
    )
    return 0


@audit_command.command(name="verify")
@source_option
@data_option
def verify(source: str, data: str | None) -> int:
    """Prove that no row was changed, dropped or put in between."""
    from reconciler.cli.reading import read_fleet
    from reconciler.store.audit import verify_chain

    count, fault = verify_chain(read_fleet(source, data).store)
    if fault:
        click.echo(f"{count} rows proven; then: {fault}", err=True)
        return 1
    click.echo(f"{count} rows proven: the chain is whole")
    return 0
