"""`validate`, `plan` and `apply`: one revision, looked at or made so."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.options import data_option, operator_option, output_option, process_option, source_option
from reconciler.cli.output import print_json, print_plan, print_problems

if TYPE_CHECKING:
    from reconciler.core.plan import Plan
    from reconciler.core.problem import Problem
    from reconciler.kinds.kind import Desired
    from reconciler.ports import PolicyEngine
    from reconciler.settings import OperatorSpec

INSTEAD = "until then a hub stays at its last good revision; shown is the commit that HEAD is at"


@click.command(name="validate")
@click.argument("path", default=".")
@click.option("--worktree", is_flag=True, help="Check the files as they are, not the last commit.")
@operator_option
@output_option
def validate_command(path: str, worktree: bool, operator: str | None, output: str) -> int:
    """Check the files of the repository at PATH; needs no hub and no engine."""
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
@source_option
@data_option
@operator_option
@output_option
def plan_command(
    path: str | None,
    everything: bool,
    worktree: bool,
    source: str,
    data: str | None,
    operator: str | None,
    output: str,
) -> int:
    """Show what the newest revision would change. Exit 2 when something is pending, 3 when a guard refuses."""
    from reconciler.home import read_operator

    place = path or source
    spec, faults = read_operator(operator)
    desired, problems = (None, faults) if faults else load_revision(place, spec, worktree=worktree)
    unsettled = "" if worktree else _say_unsettled(place)
    if unsettled and output != "json":
        click.echo(click.style("source unsettled: ", fg="yellow") + unsettled, err=desired is None)
    if desired is None:
        if output == "json":
            found = [p.to_json() for p in problems]
            print_json({"unsettled": unsettled, "problems": found, "changes": [], "refused": []})
        else:
            print_problems(problems)
        return 1
    plan = _compare(desired, place, data)
    if output == "json":
        print_json({**plan.to_json(everything=everything), "unsettled": unsettled})
    else:
        print_plan(plan, everything=everything)
    return 3 if plan.refused else 2 if plan.pending else 0


@click.command(name="apply")
@click.option("--confirm", default=None, metavar="DIGEST", help="Carry out the refused plan that has this digest.")
@click.option("--tasks", "wait_for_tasks", is_flag=True, help="Wait for the end of all tasks, too.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for convergence.")
@source_option
@data_option
@operator_option
@process_option
def apply_command(
    confirm: str | None,
    wait_for_tasks: bool,
    timeout: float,
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
        timeout_s=timeout,
        allow_process=allow_process_runtime,
        wait_for_tasks=wait_for_tasks,
    )


def load_revision(
    path: str, operator: "OperatorSpec", *, worktree: bool, ask_policies: bool = True
) -> tuple["Desired | None", Sequence["Problem"]]:
    """The newest revision of a repository or directory, or its problems. Raises ReconcilerError.

    Without `ask_policies` its Rego is neither compiled nor tested, and not asked for admission.
    """
    from dataclasses import replace

    from reconciler.core.problem import Problem
    from reconciler.core.reading import Ok, Unavailable
    from reconciler.home import open_source
    from reconciler.kinds import KINDS
    from reconciler.kinds.tree import ParseCache
    from reconciler.loop.admit import admit
    from reconciler.loop.desired import load_desired
    from reconciler.settings import HubSpec

    source = open_source(path, branch=None, worktree=worktree)
    head = source.head()
    if not isinstance(head, Ok):
        reason = head.reason if isinstance(head, Unavailable) else "it has no commit yet; commit something first"
        return None, (Problem(file=path, message=reason),)
    snapshot = source.snapshot(head.value.id)
    if not isinstance(snapshot, Ok):
        reason = snapshot.reason if isinstance(snapshot, Unavailable) else "its newest revision is gone"
        return None, (Problem(file=path, message=reason),)
    engines: list[PolicyEngine] = []

    def engine(hub: HubSpec | None = None) -> "PolicyEngine":
        from reconciler.bootstrap import CheckWatch, build_policy

        checks = CheckWatch(lambda text: click.echo(text, err=True))
        engines.append(build_policy(hub or HubSpec(), operator, checks=checks))
        return engines[-1]

    try:
        kinds = KINDS if ask_policies else [replace(kind, verify=None) for kind in KINDS]
        candidate = load_desired(snapshot.value, kinds, operator, ParseCache(), engine)
        if candidate.desired is None or not ask_policies:
            return candidate.desired, candidate.problems
        hub = candidate.desired.hub
        admission = admit(candidate.desired, None, None, lambda: engine(hub))
    finally:
        for opened in engines:
            opened.close()
        snapshot.value.close()
        source.close()
    return (None, admission.problems) if admission.problems else (candidate.desired, ())


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


def _compare(desired: "Desired", place: str, data: str | None) -> "Plan":
    """The plan against the best there is: the record, or nothing."""
    from reconciler.home import data_folder

    file = data_folder(place, data) / "state.db"
    if file.exists():
        from reconciler.clock import SystemClock
        from reconciler.loop.recorded import plan_against_record
        from reconciler.store.store import Store

        store = Store(file, read_only=True)
        try:
            is_descendant = _descends(place, store.get_meta("applied_revision") or "", desired.revision.id)
            return plan_against_record(desired, store, SystemClock(), is_descendant=is_descendant)
        finally:
            store.close()
    from reconciler.loop.nothing import plan_against_nothing

    return plan_against_nothing(desired)


def _descends(place: str, applied: str, revision: str) -> bool:
    """Whether the revision may follow the applied one; plain directories have no history to ask."""
    from reconciler.errors import SourceError
    from reconciler.home import open_source

    if not applied or ":" in applied or ":" in revision:
        return True
    source = open_source(place, branch=None)
    try:
        return source.is_ancestor(applied, revision)
    except SourceError:
        return False
    finally:
        source.close()


def _count(kind: str, desired: Any) -> str:
    number = len(desired.of(kind))
    plural = {"policy": "policies"}.get(kind, f"{kind}s")
    return f"{number} {kind if number == 1 else plural}"
