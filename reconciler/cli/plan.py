"""`validate`, `plan` and `apply`: one revision, looked at or made so."""

import json
from pathlib import Path
from typing import Any

import click

from reconciler.cli.caller import caller_options
from reconciler.cli.options import data_option, operator_option, output_option, process_option, source_option
from reconciler.cli.output import print_json, print_plan, print_problems
from reconciler.cli.review import FORMATS, format_of, render
from reconciler.core.caller import Caller
from reconciler.errors import UsageError

INSTEAD = "until then a hub stays at its last good revision; shown is the commit that HEAD is at"


@click.command(name="validate")
@click.argument("path", default=".")
@click.option("--worktree", is_flag=True, help="Check the files as they are, not the last commit.")
@operator_option
@output_option
def validate_command(path: str, worktree: bool, operator: str | None, output: str) -> int:
    """Check the files of the repository at PATH; needs no hub and no engine."""
    from reconciler.cli.revisions import load_revision
    from reconciler.home import read_operator

    spec, faults = read_operator(operator)
    desired, problems = (None, faults) if faults else load_revision(path, spec, worktree=worktree)
    if output == "json":
        revision = desired.revision.id if desired else ""
        print_json({"valid": not problems, "revision": revision, "problems": [p.to_json() for p in problems]})
    elif problems:
        print_problems(problems)
    elif desired is not None:
        counts = ", ".join(_count(kind, desired) for kind in ("agent", "task", "schema", "policy") if desired.of(kind))
        click.echo(f"valid: {counts or 'no resources'} at revision {desired.revision.id[:21]}")
    return 1 if problems else 0


@click.command(name="plan")
@click.argument("path", required=False)
@click.option("--all", "everything", is_flag=True, help="List what stays as it is, too.")
@click.option("--worktree", is_flag=True, help="Plan the files as they are, not the last commit.")
@click.option("--head", default=None, metavar="REV", help="Plan this commit, branch or tag, not the last commit.")
@click.option("--base", default=None, metavar="REV", help="Compare with this revision, as a pull request does.")
@click.option("--live", default=None, metavar="URL|FILE", help="Compare with a hub's state: an export, or its API.")
@click.option("--token-file", default=None, metavar="FILE", help="With --live URL: the file that holds the token.")
@click.option(
    "--confirm", default="", metavar="DIGEST", help="Take the refused plan that has this digest for confirmed."
)
@click.option("--write", "files", multiple=True, metavar="FILE", help="Write it here, too: .md .json .sarif .txt.")
@click.option("--export", default=None, metavar="FILE", help="Write what is recorded, for --live elsewhere, and end.")
@source_option
@data_option
@operator_option
@click.option(
    "-o", "--output", type=click.Choice(["table", *FORMATS]), default="table", show_default=True, help="Format."
)
def plan_command(
    path: str | None,
    everything: bool,
    worktree: bool,
    head: str | None,
    base: str | None,
    live: str | None,
    token_file: str | None,
    confirm: str,
    files: tuple[str, ...],
    export: str | None,
    source: str,
    data: str | None,
    operator: str | None,
    output: str,
) -> int:
    """Show what the newest revision, or --head, would change. Exit 2 when something is pending, 3 when refused."""
    from reconciler.cli.reviewing import Question, review

    place = path or source
    if export is not None:
        return _export(place, data, export)
    if head is not None and worktree:
        raise UsageError("--head names a commit, --worktree the files as they are; use one of them")
    if token_file is not None and live is None:
        raise UsageError("--token-file goes with --live URL")
    question = Question(
        place=place,
        head=head,
        base=base,
        live=live,
        token_file=token_file,
        confirm=confirm,
        worktree=worktree,
        data=data,
        operator=operator,
    )
    unsettled = "" if worktree or head or base or live else _say_unsettled(place)
    formats = [(file, format_of(file)) for file in files]
    found = review(question)
    for file, its_format in formats:
        _write(file, click.unstyle(render(found, its_format, unsettled, everything=everything)))
    if output != "table":
        click.echo(render(found, output, unsettled, everything=everything), nl=False)
        return found.exit_code
    if unsettled:
        is_problem = bool(found.plan.problems)
        click.echo(click.style("source unsettled: ", fg="yellow") + unsettled, err=is_problem)
    if found.plan.problems:
        for note in found.notes:
            click.echo(note, err=True)
        print_problems(found.plan.problems)
    elif found.plan.compared_with in ("base", "export"):
        click.echo(render(found, "text", everything=everything), nl=False)
    else:
        for note in found.notes:
            click.echo(click.style("note: ", fg="yellow") + note)
        print_plan(found.plan, everything=everything)
    return found.exit_code


@click.command(name="apply")
@click.option("--confirm", default=None, metavar="DIGEST", help="Carry out the refused plan that has this digest.")
@click.option("--tasks", "wait_for_tasks", is_flag=True, help="Wait for the end of all tasks, too.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for convergence.")
@caller_options
@source_option
@data_option
@operator_option
@process_option
def apply_command(
    confirm: str | None,
    wait_for_tasks: bool,
    timeout: float,
    caller: Caller,
    source: str,
    data: str | None,
    operator: str | None,
    allow_process_runtime: bool,
) -> int:
    """Make the newest revision so, leave it running, and exit. Exit 2 when not converged, 3 when refused."""
    from reconciler.cli.run import run_apply

    return run_apply(
        source,
        data,
        operator,
        confirm=confirm,
        caller=caller,
        timeout_s=timeout,
        allow_process=allow_process_runtime,
        wait_for_tasks=wait_for_tasks,
    )


def _say_unsettled(place: str) -> str:
    """What keeps a hub from taking a commit from here now, and what is shown instead; empty where nothing does.

    A source says so before it looks for the branch that it follows, so that any name will do.
    """
    from reconciler.core.reading import Unavailable
    from reconciler.source.layout import locate
    from reconciler.source.repository import LocalRepository
    from reconciler.source.unavailable import SourceCondition, condition_of

    if locate(place) is None:
        return ""
    source = LocalRepository(place, "main")
    head = source.head()
    source.close()
    if not isinstance(head, Unavailable) or condition_of(head) is not SourceCondition.UNSETTLED:
        return ""
    return f"{head.reason.removeprefix(f'{SourceCondition.UNSETTLED}: ')}; {INSTEAD}"


def _export(place: str, data: str | None, target: str) -> int:
    """What is recorded of the fleet, as one file that whoever may read it may read."""
    from reconciler import __version__
    from reconciler.clock import SystemClock
    from reconciler.home import data_folder
    from reconciler.loop.export import write_export
    from reconciler.loop.recorded import read_record
    from reconciler.store.store import FILE_NAME, Store

    file = data_folder(place, data) / FILE_NAME
    if not file.exists():
        raise UsageError(f"there is no record of a fleet in {file.parent}; name its data directory with --data")
    store = Store(file, read_only=True)
    try:
        document = write_export(read_record(store), SystemClock().now(), __version__)
    finally:
        store.close()
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if target == "-":
        click.echo(text, nl=False)
        return 0
    _write(target, text)
    click.echo(
        f"wrote {target}: {len(document['state']['instances'])} instances of fleet {document['metadata']['fleet']}"
    )
    return 0


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{file} cannot be written: {exc.strerror}; name another file") from exc


def _count(kind: str, desired: Any) -> str:
    number = len(desired.of(kind))
    plural = {"policy": "policies"}.get(kind, f"{kind}s")
    return f"{number} {kind if number == 1 else plural}"
