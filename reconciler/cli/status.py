"""`status`, `get` and `describe`: reading the record, read-only, with or without a running hub."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import data_option, limit_option, output_option, source_option
from reconciler.cli.output import age, console, escape, print_json, table


@click.command(name="status")
@source_option
@data_option
@output_option
def status_command(source: str, data: str | None, output: str) -> int:
    """Show the fleet, its tasks and its conditions; of a hub elsewhere (--hub) what it says itself, as JSON."""
    from reconciler.cli.hub import ask_hub, find_remote
    from reconciler.cli.reading import read_fleet

    if find_remote() is not None:
        print_json(ask_hub(source, data, "GET", "/status"))
        return 0
    fleet = read_fleet(source, data)
    live = fleet.ask_hub()
    if output == "json":
        print_json({**fleet.to_json(), **_as_shown(live)})
        return 0
    out = console()
    revision = fleet.revision or "none yet"
    running = f"running, {live.get('mode', fleet.mode)}" if fleet.is_running else "not running"
    out.print(
        f"fleet {fleet.id} · hub {running} · revision {escape(revision[:12])} · runtime {fleet.runtime or '-'} · "
        f"policies by {fleet.policy_engine or '-'}"
    )
    for condition in live.get("conditions") or [c.to_json() for c in fleet.conditions]:
        subject = "" if condition["subject"] == "hub" else f" of {condition['subject']}"
        out.print(
            f"[yellow]{condition['type']}{escape(subject)}[/] for {age(condition['since'])}: "
            f"{escape(condition['message'])}"
        )
    out.print()
    _instances(fleet, live)
    out.print()
    _tasks(fleet, fleet.tasks[-20:])
    if older := len(fleet.tasks[:-20]) + fleet.older:
        click.echo(f"({older} older ones: reconciler get tasks)")
    return 0


@click.command(name="get")
@click.argument("kind", type=click.Choice(["agents", "instances", "tasks", "revisions", "conditions", "units"]))
@source_option
@data_option
@output_option
@limit_option
def get_command(kind: str, source: str, data: str | None, output: str, limit: int) -> int:
    """List resources of one kind; of tasks the newest."""
    from reconciler.cli.reading import read_fleet

    fleet = read_fleet(source, data, limit)
    live = fleet.ask_hub() if kind in ("agents", "instances") else {}
    if kind == "tasks" and fleet.older:
        click.echo(f"({fleet.older} older ones: --limit 0 lists all)", err=True)
    if output == "json":
        print_json(fleet.to_json()[kind])
        return 0
    match kind:
        case "agents":
            table(
                ("AGENT", "INSTANCES", "READY", "TRUST", "CPUS", "MEMORY", "REVISION"),
                (
                    (
                        name,
                        str(len(rows)),
                        str(sum(r.phase == "executing" for r in rows)),
                        _trust(name, live),
                        *_use([r.name for r in rows], live),
                        rows[0].revision[:12],
                    )
                    for name, rows in sorted(fleet.agents().items())
                ),
            )
        case "instances":
            _instances(fleet, live)
        case "tasks":
            _tasks(fleet, fleet.tasks)
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


def _as_shown(live: Mapping[str, Any]) -> dict[str, Any]:
    return {key: live[key] for key in ("mode", "conditions", "usage") if key in live and live["mode"] != "starting"}


def _use(instances: Sequence[str], live: Mapping[str, Any]) -> tuple[str, str]:
    """Processors and memory of these together."""
    known = live.get("usage", {}).get("instances", {})
    used = [known[name] for name in instances if name in known]
    if not used:
        return "-", "-"
    return f"{sum(u['cpus'] for u in used):.2f}", f"{sum(u['memory_bytes'] for u in used) / 2**20:.0f}MiB"


def _trust(agent: str, live: Mapping[str, Any]) -> str:
    trust = live.get("usage", {}).get("trust", {})
    return f"{trust[agent]:.2f}" if agent in trust else "-"


def _instances(fleet: Any, live: Mapping[str, Any]) -> None:
    table(
        ("INSTANCE", "PHASE", "CONTAINER", "AGE", "CRASHES", "CPUS", "MEMORY", "REASON"),
        (
            (
                i.name,
                i.phase,
                Path(i.container_id).name[:12] or "-",
                age(i.created_at),
                str(i.crashes),
                *_use([i.name], live),
                i.reason,
            )
            for i in fleet.instances
        ),
    )


def _why(task: Any, waiting: dict[str, str]) -> str:
    from reconciler.cli.reading import WAITING

    if task.state in WAITING and task.name in waiting:
        return waiting[task.name]
    return str(task.reason or task.progress)


def _tasks(fleet: Any, runs: Any) -> None:
    waiting = fleet.waiting()
    table(
        ("TASK", "STATE", "INSTANCE", "TRIES", "AGE", "REASON"),
        (
            (t.name, t.state, t.instance or t.agent or "-", str(t.attempts), age(t.created_at), _why(t, waiting))
            for t in runs
        ),
    )
