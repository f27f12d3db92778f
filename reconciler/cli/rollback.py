"""`rollback`: have one resource, or the whole fleet, be as an older revision says, until there is something newer."""

import json
from dataclasses import asdict

import click

from reconciler.cli.caller import caller_options
from reconciler.cli.hub import ask_hub
from reconciler.cli.options import data_option, operator_option, output_option, source_option
from reconciler.cli.output import print_json
from reconciler.core.caller import Caller
from reconciler.core.rollback import Rollback
from reconciler.errors import UsageError

TARGET = "/api/v1/rollbacks"


@click.command(name="rollback")
@click.argument("subject", default="fleet", metavar="[KIND/NAME]")
@click.option("--to", default="", metavar="REV", help="The commit, branch or tag to go back to.")
@click.option("--clear", is_flag=True, help="Take a rollback back: be as the source says again.")
@click.option("--revert", "with_commit", is_flag=True, help="Also commit it, in a local repository.")
@caller_options
@source_option
@data_option
@operator_option
@output_option
def rollback_command(
    subject: str,
    to: str,
    clear: bool,
    with_commit: bool,
    caller: Caller,
    source: str,
    data: str | None,
    operator: str | None,
    output: str,
) -> int:
    """Have agent/NAME, task/NAME or the whole fleet be as the revision REV says.

    What was rolled back is skipped until a newer commit; of one resource, until a commit changes it.
    """
    if clear == bool(to):
        raise UsageError("write either --to REV, or --clear")
    if clear and with_commit:
        raise UsageError("--revert goes with --to REV")
    if clear:
        return _clear(subject, caller, source, data, output)
    asked = json.dumps({"subject": subject, "to": to}).encode()
    made = Rollback(**ask_hub(source, data, "POST", TARGET, asked, caller))
    if output == "json":
        print_json(asdict(made))
    else:
        click.echo(f"{made.subject} goes back to {made.to[:12]}; {made.ends}")
    return _revert(made, caller, source, data, operator, err=output == "json") if with_commit else 0


def _revert(made: Rollback, caller: Caller, source: str, data: str | None, operator: str | None, *, err: bool) -> int:
    from reconciler.cli.output import print_problems
    from reconciler.cli.revert import revert
    from reconciler.home import read_operator

    spec, problems = read_operator(operator)
    if problems:
        print_problems(problems)
        return 1
    return revert(made, caller, source, data, spec, err=err)


def _clear(subject: str, caller: Caller, source: str, data: str | None, output: str) -> int:
    answer = ask_hub(source, data, "DELETE", f"{TARGET}/{subject}", caller=caller)
    if output == "json":
        print_json(answer)
    else:
        click.echo(f"{answer['subject']} is as the source says again")
    return 0
