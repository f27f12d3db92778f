"""`status`, `get` and `describe`: reading the record, read-only, with or without a running hub."""

import json
from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import data_option, output_option, source_option
from reconciler.cli.output import age, console, escape, print_json, table


@click.command(name="status")
@source_option
@data_option
@output_option
def status_command(source: str, data: str | None, output: str) -> int:
    """Show the fleet, its tasks and its conditions."""
    from reconciler.cli.reading import read_fleet

    fleet = read_fleet(source, data)
    if output == "json":
        print_json(fleet.to_json())
        return 0
    out = console()
    revision = fleet.revision or "none yet"
    running = f"running, {fleet.mode}" if fleet.is_running else "not running"
    out.print(
        f"fleet {fleet.id} · hub {running} · revision {escape(revision[:12])} · runtime {fleet.runtime or '-'} · "
        f"policies by {fleet.policy_engine or '-'}"
    )
    for condition in fleet.conditions:
        out.print(f"[yellow]{condition.type}[/] for {age(condition.since.isoformat())}: {escape(condition.message)}")
    out.print()
    _instances(fleet)
    out.print()
    _tasks(fleet, limit=20)
    return 0


@click.command(name="get")
@click.argument("kind", type=click.Choice(["agents", "instances", "tasks", "revisions", "conditions", "units"]))
@source_option
@data_option
@output_option
def get_command(kind: str, source: str, data: str | None, output: str) -> int:
    """List resources of one kind."""
    from reconciler.cli.reading import read_fleet

    fleet = read_fleet(source, data)
    if output == "json":
        print_json(fleet.to_json()[kind])
        return 0
    match kind:
        case "agents":
            table(
                ("AGENT", "INSTANCES", "READY", "REVISION"),
                (
                    (name, str(len(rows)), str(sum(r.phase == "executing" for r in rows)), rows[0].revision[:12])
                    for name, rows in sorted(fleet.agents().items())
                ),
            )
        case "instances":
            _instances(fleet)
        case "tasks":
            _tasks(fleet, limit=None)
        case "revisions":
            table(
                ("REVISION", "APPLIED", "AUTHOR", "SUBJECT"),
                ((r.id[:12], age(r.applied_at), r.author[:30], r.subject[:50]) for r in fleet.revisions),
            )
        case "conditions":
            table(
                ("SUBJECT", "CONDITION", "SINCE", "MESSAGE"),
                ((c.subject, c.type, age(c.since.isoformat()), c.message) for c in fleet.conditions),
            )
        case _:
            table(
                ("UNIT", "FAILURES", "STALLED", "REASON"),
                ((u.unit, str(u.failures), "yes" if u.stalled else "no", u.reason) for u in fleet.units),
            )
    return 0


@click.command(name="describe")
@click.argument("kind", type=click.Choice(["agent", "instance", "task"]))
@click.argument("name")
@source_option
@data_option
@output_option
def describe_command(kind: str, name: str, source: str, data: str | None, output: str) -> int:
    """Show one resource with its history."""
    from reconciler.cli.reading import read_fleet

    fleet = read_fleet(source, data)
    found = fleet.describe(kind, name)
    if found is None:
        click.echo(f"error: there is no {kind} {name!r}; see `reconciler get {kind}s`", err=True)
        return 1
    if output == "json":
        print_json(found)
        return 0
    out = console()
    history = found.pop("history", [])
    for key, value in found.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        out.print(f"[bold]{key:<16}[/] {escape(shown) or '-'}", overflow="fold")
    if history:
        out.print("\n[bold]history[/] (newest last)")
        table(
            ("SEQ", "TIME", "ACTION", "OUTCOME", "ACTOR", "REASON"),
            (
                (str(h["seq"]), h["time"][11:19], h["action"], h["outcome"], h["actor"][:20], h["reason"])
                for h in history
            ),
        )
    return 0


def _instances(fleet: Any) -> None:
    table(
        ("INSTANCE", "PHASE", "CONTAINER", "AGE", "CRASHES", "REASON"),
        (
            (i.name, i.phase, Path(i.container_id).name[:12] or "-", age(i.created_at), str(i.crashes), i.reason)
            for i in fleet.instances
        ),
    )


def _why(task: Any, waiting: dict[str, str]) -> str:
    if task.state in ("pending", "authorised") and task.name in waiting:
        return waiting[task.name]
    return str(task.reason or task.progress)


def _tasks(fleet: Any, *, limit: int | None) -> None:
    runs = fleet.tasks if limit is None else fleet.tasks[-limit:]
    waiting = fleet.waiting()
    table(
        ("TASK", "STATE", "INSTANCE", "TRIES", "AGE", "REASON"),
        (
            (t.name, t.state, t.instance or t.agent or "-", str(t.attempts), age(t.created_at), _why(t, waiting))
            for t in runs
        ),
    )
    if limit is not None and len(fleet.tasks) > limit:
        click.echo(f"({len(fleet.tasks) - limit} older ones: reconciler get tasks)")
