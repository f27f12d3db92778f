"""`explain`: why an agent or a task does not run, or what it does, in one sentence."""

import click

from reconciler.cli.options import data_option, output_option, source_option
from reconciler.cli.output import print_json

KINDS = {"agent": "agents", "task": "tasks"}


@click.command(name="explain")
@click.argument("resource", metavar="KIND/NAME")
@source_option
@data_option
@output_option
def explain_command(resource: str, source: str, data: str | None, output: str) -> int:
    """Say in one sentence why agent/NAME or task/NAME is not running, or what it does."""
    kind, _, name = resource.partition("/")
    if kind not in KINDS or not name or "/" in name:
        raise click.UsageError(f"{resource!r} is not agent/NAME or task/NAME")
    why = _explain(kind, name, source, data)
    if not why:
        click.echo(f"error: there is no {kind} {name!r}; see `reconciler get {KINDS[kind]}`", err=True)
        return 1
    if output == "json":
        print_json({kind: name, "why": why})
    else:
        click.echo(why)
    return 0


def _explain(kind: str, name: str, source: str, data: str | None) -> str:
    """By the running hub's plan, or by the record alone."""
    from reconciler.api.client import HubAwayError, call
    from reconciler.cli.hub import ask_hub, find_remote
    from reconciler.cli.reading import read_fleet

    if find_remote() is not None:
        return str(ask_hub(source, data, "GET", f"/api/v1/{KINDS[kind]}/{name}/explain")["why"])
    fleet = read_fleet(source, data)
    if fleet.is_running:
        try:
            answer = call(fleet.run / "api.sock", "GET", f"/api/v1/{KINDS[kind]}/{name}/explain")
        except HubAwayError:
            pass
        else:
            return str(answer["why"])
    if kind == "agent":
        from reconciler.kinds.agent.explain import explain_without_hub as of_agent

        agents = {i.agent for i in fleet.instances if name in (i.agent, i.name)}
        subjects = {"hub", f"agent/{name}", *(f"agent/{agent}" for agent in agents)}
        said = (c.message for c in fleet.conditions if c.type == "Suspended" and c.subject in subjects)
        return of_agent(name, fleet.instances, next(said, ""))
    from reconciler.kinds.task.explain import explain_without_hub as of_task

    run = fleet.task(name)
    return of_task(run) if run is not None else ""
