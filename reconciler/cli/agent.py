"""`agent`: restart, drain, quarantine and release. The running hub carries it out."""

import click

from reconciler.cli.caller import caller_options
from reconciler.cli.hub import ask_hub
from reconciler.cli.options import data_option, output_option, source_option
from reconciler.cli.output import print_json, program
from reconciler.core.caller import Caller

_SAID = {
    "restart": "is restarted as soon as its tasks have ended",
    "drain": "gets no new tasks until it is released",
    "quarantine": "is isolated; its container and the evidence are kept",
    "release": "is released",
}


@click.group(name="agent")
def agent_command() -> None:
    """Restart, drain, isolate and release agents."""


@agent_command.command(name="restart")
@click.argument("name")
@caller_options
@source_option
@data_option
@output_option
def restart(name: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    """Restart the agent or instance NAME, after its running tasks, a few instances at a time."""
    return _order(name, "restart", caller, source, data, output)


@agent_command.command(name="drain")
@click.argument("name")
@caller_options
@source_option
@data_option
@output_option
def drain(name: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    """Give the agent or instance NAME no new tasks, until it is released."""
    return _order(name, "drain", caller, source, data, output)


@agent_command.command(name="quarantine")
@click.argument("name")
@caller_options
@source_option
@data_option
@output_option
def quarantine(name: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    """Stop and isolate the agent or instance NAME at once, and keep the evidence."""
    return _order(name, "quarantine", caller, source, data, output)


@agent_command.command(name="release")
@click.argument("name")
@caller_options
@source_option
@data_option
@output_option
def release(name: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    """Let the agent or instance NAME out of quarantine or draining, or have its roll-out tried again."""
    return _order(name, "release", caller, source, data, output)


def _order(name: str, verb: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    answer = ask_hub(source, data, "POST", f"/api/v1/agents/{name}/{verb}", caller=caller)
    if output == "json":
        print_json(answer)
        return 0
    for instance in answer["instances"]:
        click.echo(f"{instance} {_SAID[verb]}")
    for instance, why in answer["refused"].items():
        click.echo(f"{instance}: {why}")
    click.echo(f"look further: {program()} describe agent {answer['agent']}")
    return 0
