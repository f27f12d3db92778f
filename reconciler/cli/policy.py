"""`policy`: test the Rego of a repository, and ask it one question."""

import json
from typing import Any

import click

from reconciler.cli.options import operator_option, output_option
from reconciler.cli.output import print_json, print_problems

ENTRY_POINTS = ("message", "task", "delegation", "admission")


@click.group(name="policy")
def policy_command() -> None:
    """Test policies, and ask them."""


@policy_command.command(name="test")
@click.argument("path", default=".")
@click.option("--worktree", is_flag=True, help="Test the files as they are, not the last commit.")
@operator_option
def test(path: str, worktree: bool, operator: str | None) -> int:
    """Run the `test_` rules of all *_test.rego of the repository at PATH."""
    from reconciler.cli.plan import load_revision
    from reconciler.home import read_operator
    from reconciler.policy.bundle import find_tests

    spec, faults = read_operator(operator)
    desired, problems = (None, faults) if faults else load_revision(path, spec, worktree=worktree)
    if desired is None:
        print_problems(problems)
        return 1
    policies = desired.of("policy").get("policies")
    if policies is None:
        click.echo("there are no policies; the built-in rules answer")
        return 0
    click.echo(f"{policies.summary}: {len(find_tests(policies.bundle.modules))} tests passed")
    return 0


@policy_command.command(name="eval")
@click.argument("kind", type=click.Choice(ENTRY_POINTS))
@click.argument("question", type=click.File("r"))
@click.option("--source", "path", default=".", show_default=True, metavar="PATH", help="The repository.")
@click.option("--worktree", is_flag=True, help="Use the files as they are, not the last commit.")
@operator_option
@output_option
def evaluate(kind: str, question: Any, path: str, worktree: bool, operator: str | None, output: str) -> int:
    """Ask one question: QUESTION is a JSON file ('-' for standard input). Exit 3 when the answer is no."""
    from reconciler.bootstrap import build_policy
    from reconciler.cli.plan import load_revision
    from reconciler.home import read_operator

    spec, faults = read_operator(operator)
    desired, problems = (None, faults) if faults else load_revision(path, spec, worktree=worktree)
    if desired is None:
        print_problems(problems)
        return 1
    try:
        asked = json.load(question)
    except ValueError as exc:
        click.echo(f"error: the question is not JSON: {exc}", err=True)
        return 64
    engine = build_policy(desired.hub, spec)
    try:
        policies = desired.of("policy").get("policies")
        if policies is not None:
            engine.activate(policies.bundle)
        decision = engine.decide(kind, asked)
    finally:
        engine.close()
    if output == "json":
        print_json({"allow": decision.allow, "reasons": list(decision.reasons), "engine": decision.engine})
    else:
        click.echo(f"{'allowed' if decision.allow else 'denied'} by {decision.engine}")
        for reason in decision.reasons:
            click.echo(f"  {reason}")
    return 0 if decision.allow else 3
