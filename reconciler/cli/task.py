"""`task`: submit, list, show, cancel, retry, acknowledge. Writes go through the running hub."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from reconciler.cli.caller import caller_options
from reconciler.cli.hub import ask_hub
from reconciler.cli.options import data_option, limit_option, output_option, source_option
from reconciler.cli.output import print_json, program
from reconciler.core.caller import Caller

POLL_S = 0.2


@click.group(name="task")
def task_command() -> None:
    """Submit, list, show, cancel and retry tasks."""


@task_command.command(name="submit")
@click.argument("file", type=click.File("rb"))
@click.option("--wait", is_flag=True, help="Wait for the end; exit 0 only when it succeeded.")
@click.option("--key", default="", metavar="TEXT", help="Idempotency key: the same key and manifest is the same run.")
@caller_options
@source_option
@data_option
@output_option
def submit(file: Any, wait: bool, key: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    """Submit the task manifest FILE ('-' for standard input)."""
    answer = ask_hub(source, data, "POST", f"/api/v1/tasks{_query(key)}", file.read(), caller)
    if wait:
        return _wait(answer["run"], source, data, output)
    if output == "json":
        print_json(answer)
    else:
        click.echo(f"task {answer['task']} is {answer['state']} (run {answer['run']})")
        click.echo(f"look further: {program()} task show {answer['task']}")
    return 0


@task_command.command(name="list")
@source_option
@data_option
@output_option
@limit_option
@click.pass_context
def list_tasks(ctx: click.Context, source: str, data: str | None, output: str, limit: int) -> int:
    """List the newest tasks, and when those with a schedule are due next."""
    from reconciler.cli.output import table
    from reconciler.cli.reading import read_fleet
    from reconciler.cli.status import get_command

    result: int = ctx.invoke(get_command, kind="tasks", source=source, data=data, output=output, limit=limit)
    schedules = read_fleet(source, data).schedules()
    if output != "json" and schedules:
        click.echo()
        table(("SCHEDULE", "CRON", "ZONE", "NEXT"), ((s["name"], s["cron"], s["zone"], s["next"]) for s in schedules))
    return result


@task_command.command(name="show")
@click.argument("name")
@click.option("--artefact", default=None, metavar="FILE", help="Write this artefact to standard output.")
@source_option
@data_option
@output_option
def show(name: str, artefact: str | None, source: str, data: str | None, output: str) -> int:
    """Show the task NAME (or run id): state, result, artefacts, executions."""
    from reconciler.cli.reading import read_fleet

    fleet = read_fleet(source, data)
    found = fleet.describe("task", name)
    if found is None:
        click.echo(f"error: there is no task {name!r}; see `reconciler task list`", err=True)
        return 1
    if artefact is not None:
        return _artefact(found, artefact, fleet.state)
    if output == "json":
        print_json(found)
        return 0
    for key in ("name", "run", "state", "reason", "instance", "attempts", "duration_s", "error"):
        if found.get(key):
            click.echo(f"{key:<12}{found[key]}")
    if used := found.get("usage"):
        shown = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in used.items())
        click.echo(f"{'usage':<12}{shown}")
    for item in found.get("artefacts", []):
        click.echo(f"{'artefact':<12}{item['name']} ({item['size']} bytes): --artefact {item['name']}")
    if found.get("stderr") and found.get("error"):
        click.echo(f"{'stderr':<12}{found['stderr'].rstrip()}")
    if found.get("result") is not None:
        click.echo(f"result\n{json.dumps(found['result'], indent=2, ensure_ascii=False)}")
    return 0


@task_command.command(name="cancel")
@click.argument("name")
@caller_options
@source_option
@data_option
def cancel(name: str, caller: Caller, source: str, data: str | None) -> int:
    """Cancel the task NAME."""
    answer = ask_hub(source, data, "POST", f"/api/v1/tasks/{name}/cancel", caller=caller)
    click.echo(f"task {answer['task']} is being cancelled (run {answer['run']})")
    return 0


@task_command.command(name="retry")
@click.argument("name")
@caller_options
@source_option
@data_option
def retry(name: str, caller: Caller, source: str, data: str | None) -> int:
    """Run the finished task NAME again."""
    answer = ask_hub(source, data, "POST", f"/api/v1/tasks/{name}/retry", caller=caller)
    click.echo(f"task {answer['task']} is pending again (run {answer['run']})")
    return 0


@task_command.command(name="acknowledge")
@click.argument("name")
@caller_options
@source_option
@data_option
def acknowledge(name: str, caller: Caller, source: str, data: str | None) -> int:
    """Say that the escalated task NAME was seen to."""
    answer = ask_hub(source, data, "POST", f"/api/v1/tasks/{name}/acknowledge", caller=caller)
    click.echo(f"task {answer['task']} needs no person any more (run {answer['run']})")
    return 0


def _query(key: str) -> str:
    from urllib.parse import urlencode

    return f"?{urlencode({'key': key})}" if key else ""


def _artefact(found: dict[str, Any], name: str, state: Path) -> int:
    item = next((a for a in found.get("artefacts", []) if a["name"] == name), None)
    if item is None:
        names = ", ".join(a["name"] for a in found.get("artefacts", [])) or "none"
        click.echo(f"error: the task left no artefact {name!r}; it left: {names}", err=True)
        return 1
    from reconciler.kinds.task.artefacts import read_artefact

    content = read_artefact(state, item["sha256"])
    if content is None:
        click.echo(f"error: artefact {name!r} (sha256 {item['sha256']}) is no longer kept", err=True)
        return 1
    sys.stdout.buffer.write(content)
    return 0


def _wait(run: str, source: str, data: str | None, output: str) -> int:
    from reconciler.cli.reading import read_fleet
    from reconciler.kinds.task.state import FINAL

    while True:
        fleet = read_fleet(source, data)
        task = fleet.task(run)
        fleet.store.close()
        if task is not None and task.state in FINAL:
            break
        time.sleep(POLL_S)
    if output == "json":
        print_json(read_fleet(source, data).describe("task", run))
    else:
        click.echo(f"task {task.name}: {task.state}{': ' + task.reason if task.reason else ''}")
    return 0 if task.state == "succeeded" else 1
