"""`suspend` and `resume`: leave one resource, or the whole fleet, as it is for a while."""

import json

import click

from reconciler.cli.caller import caller_options
from reconciler.cli.hub import ask_hub
from reconciler.cli.options import data_option, output_option, source_option
from reconciler.cli.output import print_json
from reconciler.core.caller import Caller


@click.command(name="suspend")
@click.argument("subject", default="fleet", metavar="[KIND/NAME]")
@click.option("--until", default="", help="When it ends by itself: 2h, or 2026-01-31T18:00:00Z. Without: when resumed.")
@caller_options
@source_option
@data_option
@output_option
def suspend_command(subject: str, until: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    """Have the hub leave KIND/NAME as it is, or the whole fleet: nothing of it is started, changed or removed."""
    asked = {"subject": subject, "until": until}
    answer = ask_hub(source, data, "POST", "/api/v1/suspensions", json.dumps(asked).encode(), caller)
    if output == "json":
        print_json(answer)
        return 0
    end = f"until {answer['until']}" if answer["until"] else "until it is resumed"
    click.echo(f"{answer['subject']} is suspended {end}")
    return 0


@click.command(name="resume")
@click.argument("subject", default="fleet", metavar="[KIND/NAME]")
@caller_options
@source_option
@data_option
@output_option
def resume_command(subject: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    """Take back the suspension of KIND/NAME, or that of the whole fleet."""
    answer = ask_hub(source, data, "DELETE", f"/api/v1/suspensions/{subject}", caller=caller)
    if output == "json":
        print_json(answer)
        return 0
    click.echo(f"{answer['subject']} is no longer suspended")
    return 0
