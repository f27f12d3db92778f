"""`policy`: test the Rego of a repository, and ask it one question."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import click

from reconciler.cli.options import operator_option, output_option
from reconciler.cli.output import print_json, print_problems, table

if TYPE_CHECKING:
    from reconciler.cli.policy_question import Answered
    from reconciler.core.problem import Problem
    from reconciler.kinds.kind import Desired
    from reconciler.policy.coverage import Coverage
    from reconciler.policy.explain import EntryPoint
    from reconciler.policy.link import WorkerLink
    from reconciler.policy.marks import Definition
    from reconciler.ports import PolicyBundle, PolicyEngine
    from reconciler.settings import OperatorSpec

ENTRY_POINTS = ("message", "task", "delegation", "admission", "llm")
_WORKER_BYTES = 256 * 2**20
_CHECK_S = 20.0


@click.group(name="policy")
def policy_command() -> None:
    """Test policies, and ask them."""


@policy_command.command(name="test")
@click.argument("path", default=".")
@click.option("--worktree", is_flag=True, help="Test the files as they are, not the last commit.")
@click.option(
    "--engine",
    type=click.Choice(["embedded", "opa"]),
    default="embedded",
    show_default=True,
    help="Who runs the tests and says what they cover: rules (embedded) or lines (opa).",
)
@click.option("--threshold", type=click.FloatRange(0, 100), metavar="PERCENT", help="Fail where less is covered.")
@operator_option
@output_option
def test(path: str, worktree: bool, engine: str, threshold: float | None, operator: str | None, output: str) -> int:
    """Run the `test_` rules of all *_test.rego of the repository at PATH, and say what they cover."""
    from reconciler.cli.policy_question import bundle_of
    from reconciler.policy.bundle import find_tests
    from reconciler.policy.explain import describe_entry_points

    desired, spec, problems = _load(path, operator, worktree=worktree)
    bundle = bundle_of(desired) if desired else None
    if desired is not None and bundle is None:
        _print_no_policies(output)
        return 0
    coverage: Coverage | None = None
    if bundle is not None:
        problems, coverage = _measure(bundle, engine, spec)
    if problems or bundle is None or coverage is None:
        _print_problems(problems, output)
        return 1
    count, entry_points = len(find_tests(bundle.modules)), describe_entry_points(_start_worker, bundle)
    if output == "json":
        print_json(_report_as_json(bundle, count, coverage, entry_points))
    else:
        _print_report(bundle, count, coverage, entry_points)
    if threshold is not None and coverage.percent < threshold:
        click.echo(f"error: {coverage.percent:.1f}% is covered, less than {threshold:g}%", err=True)
        return 1
    return 0


@policy_command.command(name="eval")
@click.argument("kind", type=click.Choice(ENTRY_POINTS))
@click.argument("name", required=False)
@click.option("--from", "sender", metavar="AGENT", help="message: who sends it.")
@click.option("--instance", metavar="INSTANCE", help="message, llm: which of its instances.  [default: the first]")
@click.option("--to", "recipient", metavar="AGENT", help="message: whom it is for; 'hub' for the hub.")
@click.option("--topic", metavar="TOPIC", help="message: the topic it is for, in place of --to.")
@click.option("--type", "type_", metavar="TYPE", help="message: its type, such as review.request.")
@click.option("--pattern", type=click.Choice(["event", "request", "reply"]), default="event", show_default=True)
@click.option(
    "--sensitivity",
    type=click.Choice(["public", "internal", "confidential", "restricted"]),
    default="internal",
    show_default=True,
)
@click.option("--size", type=click.IntRange(0), metavar="BYTES", help="message: size of the whole body.")
@click.option("--agent", metavar="AGENT", help="task: who shall be given it.  [default: the one in the manifest]")
@click.option("--time", "time_", metavar="TIME", help="UTC, such as 2026-11-21T08:15:00Z.  [default: now]")
@click.option("--input", "file", type=click.File("r"), metavar="FILE", help="Ask this JSON instead ('-': stdin).")
@click.option("--source", "path", default=".", show_default=True, metavar="PATH", help="The repository.")
@click.option("--worktree", is_flag=True, help="Use the files as they are, not the last commit.")
@operator_option
@output_option
def evaluate(
    kind: str,
    name: str | None,
    file: TextIO | None,
    time_: str | None,
    path: str,
    worktree: bool,
    operator: str | None,
    output: str,
    **said: Any,
) -> int:
    """Ask one question of KIND. Exit 3 when the answer is no.

    About message options, the task NAME, a request to the model of the agent NAME (llm), or a JSON file.
    """
    now, given = _read_time(time_), _read_question(file)
    with _start_beside() as start:
        from reconciler.bootstrap import build_policy
        from reconciler.cli.policy_question import bundle_of

        desired, spec, problems = _load(path, operator, worktree=worktree, ask_policies=False)
        if desired is None:
            _print_problems(problems, output)
            return 1
        bundle = bundle_of(desired)
        with closing(build_policy(desired.hub, spec)) as engine:
            problems = _activate(engine, start, bundle)
            if problems:
                _print_problems(problems, output)
                return 1
            answered = _ask(desired, spec, engine, kind, name, given, now, said)
        rules = _find_rules(start, bundle, kind, answered)
    if output == "json":
        print_json(_answer_as_json(desired, kind, answered, rules))
    else:
        _print_answer(answered, rules)
    return 0 if answered.decision.allow else 3


# --- loading ---


def _load(
    path: str, operator: str | None, *, worktree: bool, ask_policies: bool = True
) -> "tuple[Desired | None, OperatorSpec, Sequence[Problem]]":
    """The newest revision, or its problems."""
    from reconciler.cli.revisions import load_revision
    from reconciler.home import read_operator

    spec, faults = read_operator(operator)
    desired, problems = (
        (None, faults) if faults else load_revision(path, spec, worktree=worktree, ask_policies=ask_policies)
    )
    return desired, spec, problems


def _print_problems(problems: "Sequence[Problem]", output: str) -> None:
    if output == "json":
        print_json({"problems": [p.to_json() for p in problems]})
    else:
        print_problems(problems)


def _start_worker() -> "WorkerLink":
    from reconciler.policy.link import WorkerLink

    return WorkerLink(memory_bytes=_WORKER_BYTES)


@contextmanager
def _start_beside() -> "Iterator[Callable[[], WorkerLink]]":
    """A worker that starts while all else is imported and read; it ends with the block."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        starting = pool.submit(_start_worker)
        try:
            yield starting.result
        finally:
            if starting.exception() is None:
                starting.result().close()


# --- test ---


def _measure(
    bundle: "PolicyBundle", engine: str, operator: "OperatorSpec"
) -> "tuple[Sequence[Problem], Coverage | None]":
    """What fails in the engine that was asked for, and what is covered. Raises UsageError without the program."""
    from reconciler.errors import UsageError
    from reconciler.policy.opa_process import NO_PROGRAM, find_program
    from reconciler.policy.testing import TestLimits, measure_coverage
    from reconciler.policy.testing_opa import run_opa_tests

    if engine == "embedded":
        return measure_coverage(_start_worker, bundle, TestLimits())
    program = find_program(operator.policy.opa_binary)
    if program is None:
        raise UsageError(NO_PROGRAM)
    return run_opa_tests(program, bundle)


def _print_no_policies(output: str) -> None:
    if output == "json":
        print_json({"tests": 0, "problems": [], "coverage": None, "entry_points": []})
    else:
        click.echo("there are no policies; the built-in rules answer")


def _print_report(
    bundle: "PolicyBundle", count: int, coverage: "Coverage", entry_points: "Sequence[EntryPoint]"
) -> None:
    from reconciler.policy.bundle import is_test

    tests = sum(map(is_test, bundle.modules))
    click.echo(f"{len(bundle.modules) - tests} modules, {tests} test files: {count} tests passed")
    click.echo(f"\n{coverage.percent:.1f}% of the {coverage.unit} are covered (measured by {coverage.engine})")
    table(
        ("FILE", coverage.unit.upper(), "COVERED", "NOT COVERED"),
        [
            (f.file, f"{f.covered}/{f.total}", f"{f.percent:.1f}%", ", ".join(map(_show_gap, f.gaps)))
            for f in coverage.files
        ],
    )
    if coverage.unmeasured:
        click.echo(f"{coverage.unmeasured} evaluations could not be measured; more may be covered")
    if coverage.uncounted:
        click.echo(f"{coverage.uncounted} rules with several keys in brackets are not counted")
    click.echo("\nwhat answers depend on (the router remembers those of messages by it)")
    table(("QUESTION", "INPUT"), [(point.kind, _describe_reads(point, bundle)) for point in entry_points])


def _show_gap(gap: Any) -> str:
    lines = f"{gap.line}" if gap.line == gap.last_line else f"{gap.line}-{gap.last_line}"
    return f"{lines} {gap.name}".rstrip()


def _describe_reads(point: "EntryPoint", bundle: "PolicyBundle") -> str:
    from reconciler.policy.explain import find_whole_inputs

    if point.reads is None:
        return "no policy; the built-in rules answer"
    if not point.reads.obstacle:
        return ", ".join(".".join(path) for path in point.reads.paths) or "nothing; the answer is always the same"
    places = ", ".join(find_whole_inputs(bundle))
    return f"not to be told, so nothing is remembered: {point.reads.obstacle}" + (f" ({places})" if places else "")


def _report_as_json(
    bundle: "PolicyBundle", count: int, coverage: "Coverage", entry_points: "Sequence[EntryPoint]"
) -> Mapping[str, Any]:
    return {
        "policy_revision": bundle.digest,
        "tests": count,
        "problems": [],
        "coverage": {
            "engine": coverage.engine,
            "unit": coverage.unit,
            "percent": round(coverage.percent, 1),
            "unmeasured": coverage.unmeasured,
            "uncounted": coverage.uncounted,
            "files": [
                {
                    "file": f.file,
                    "percent": round(f.percent, 1),
                    "covered": f.covered,
                    "total": f.total,
                    "not_covered": [{"line": g.line, "last_line": g.last_line, "name": g.name} for g in f.gaps],
                }
                for f in coverage.files
            ],
        },
        "entry_points": [
            {
                "kind": point.kind,
                "engine": "rego" if point.reads else "builtin",
                "cacheable": point.reads is not None and not point.reads.obstacle,
                "reads": [".".join(path) for path in point.reads.paths] if point.reads else [],
                "obstacle": point.reads.obstacle if point.reads else "",
            }
            for point in entry_points
        ],
    }


# --- eval ---


def _read_time(text: str | None) -> datetime:
    """Raises BadParameter."""
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is no time; write 2026-11-21T08:15:00Z", param_hint="--time") from exc
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _read_question(file: TextIO | None) -> Mapping[str, Any] | None:
    """Raises BadParameter."""
    if file is None:
        return None
    try:
        found = json.load(file)
    except (ValueError, RecursionError) as exc:
        raise click.BadParameter(f"it is not JSON: {exc}", param_hint="--input") from exc
    if not isinstance(found, dict):
        raise click.BadParameter("it is not a JSON object", param_hint="--input")
    return found


def _ask(
    desired: "Desired",
    operator: "OperatorSpec",
    engine: Any,
    kind: str,
    name: str | None,
    given: Mapping[str, Any] | None,
    now: datetime,
    said: Mapping[str, Any],
) -> "Answered":
    """Raises click.UsageError where the question is not complete."""
    from reconciler.cli.policy_question import Answered, MessageAsked, ModelAsked, ask_message, ask_model, ask_task

    if given is not None:
        return Answered(question=given, decision=engine.decide(kind, given))
    if kind == "task" and name:
        return ask_task(desired, engine, name, said["agent"], now)
    if kind == "llm" and name:
        model = ModelAsked(agent=name, instance=said["instance"], sensitivity=said["sensitivity"])
        return ask_model(desired, operator, engine, model, now)
    if kind != "message":
        wanted = "a NAME or --input FILE" if kind in ("task", "llm") else "--input FILE"
        raise click.UsageError(f"a question of kind {kind} needs {wanted}")
    if not said["sender"] or not said["type_"] or bool(said["recipient"]) == bool(said["topic"]):
        raise click.UsageError("a message needs --from, --type and either --to or --topic, or --input FILE")
    asked = MessageAsked(
        sender=said["sender"],
        instance=said["instance"],
        recipient=said["recipient"],
        topic=said["topic"],
        type=said["type_"],
        pattern=said["pattern"],
        sensitivity=said["sensitivity"],
        size=said["size"],
    )
    return ask_message(desired, engine, asked, now)


def _activate(
    engine: "PolicyEngine", start: "Callable[[], WorkerLink]", bundle: "PolicyBundle | None"
) -> "Sequence[Problem]":
    """Why the policies cannot be in force, where they cannot; but their tests are not run. Raises PolicyEngineError."""
    from reconciler.core.problem import Problem
    from reconciler.errors import PolicyEngineError
    from reconciler.policy.bundle import without_tests

    if bundle is None:
        return ()
    try:
        engine.activate(bundle)
        reply = start().ask("check", _CHECK_S, modules=without_tests(bundle.modules))
        return [Problem(**fields) for fields in reply["problems"]]
    except PolicyEngineError:
        problems = engine.check(bundle)
        if not problems:
            raise
        return problems


def _find_rules(
    start: "Callable[[], WorkerLink]", bundle: "PolicyBundle | None", kind: str, answered: "Answered"
) -> "Sequence[Definition] | None":
    """What held in the policy, where it answered; None where that cannot be told."""
    from reconciler.policy.explain import find_held_rules

    if bundle is None or answered.decision.engine != "embedded":
        return None
    return find_held_rules(start, bundle, kind, answered.question, answered.decision)


def _print_answer(answered: "Answered", rules: "Sequence[Definition] | None") -> None:
    decision = answered.decision
    said = "allowed" if decision.allow else "denied"
    click.echo(f"{said} by {decision.engine}, policies {decision.revision[:12] or 'none'}")
    for reason in decision.reasons:
        click.echo(f"  {reason}")
    if answered.grant:
        click.echo(f"\nby {answered.grant}")
    if rules is not None:
        click.echo("\nrules that held")
        for rule in rules:
            if not rule.is_constant or rule.name == "decision":
                click.echo(f"  {rule.file}:{rule.line} {rule.name}")
    elif decision.engine == "embedded":
        click.echo("\nwhich rules held cannot be told")


def _answer_as_json(
    desired: "Desired", kind: str, answered: "Answered", rules: "Sequence[Definition] | None"
) -> Mapping[str, Any]:
    decision = answered.decision
    return {
        "kind": kind,
        "allow": decision.allow,
        "reasons": list(decision.reasons),
        "engine": decision.engine,
        "policy_revision": decision.revision,
        "revision": desired.revision.id,
        "grant": answered.grant or None,
        "rules": None if rules is None else [_rule_as_json(rule) for rule in rules],
        "question": answered.question,
    }


def _rule_as_json(rule: "Definition") -> Mapping[str, Any]:
    return {"file": rule.file, "line": rule.line, "last_line": rule.last_line, "rule": f"{rule.package}.{rule.name}"}
