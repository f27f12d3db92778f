"""From a question on the command line to a review: what is compared with what, best available first."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.cli.revisions import Revisions
from reconciler.cli.rolled_back import load_rolled_back, recorded_rollbacks
from reconciler.core.plan import Plan
from reconciler.core.problem import Problem
from reconciler.core.rollback import Rollback
from reconciler.errors import ForeignFleetError
from reconciler.home import data_folder, open_home, read_operator
from reconciler.kinds.kind import Desired
from reconciler.loop.review import Review, compare_settings, find_places, problem_review
from reconciler.settings import OperatorSpec

if TYPE_CHECKING:
    from reconciler.loop.export import Export
    from reconciler.loop.recorded import Assent


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a person wants to know. `head` None is the newest revision, `base` None whatever is recorded."""

    place: str
    head: str | None = None
    base: str | None = None
    live: str | None = None
    token_file: str | None = None
    confirm: str = ""
    worktree: bool = False
    data: str | None = None
    operator: str | None = None


def review(question: Question) -> Review:
    """The answer, problems included. Raises ReconcilerError."""
    spec, faults = read_operator(question.operator)
    if faults:
        return problem_review(faults)
    export = _read_live(question)
    if isinstance(export, Problem):
        return problem_review([export])
    with Revisions(question.place, spec, worktree=question.worktree) as revisions:
        return _review(question, revisions, export, spec)


def _review(question: Question, revisions: Revisions, export: "Export | None", operator: OperatorSpec) -> Review:
    notes: list[str] = []
    base = _load_base(question, revisions, export, notes)
    snapshot = revisions.named(question.head) if question.head is not None else revisions.newest()
    if isinstance(snapshot, Problem):
        return problem_review([snapshot], notes=notes)
    candidate = load_rolled_back(revisions, snapshot, _rollbacks(question), operator, notes)
    if candidate.desired is None:
        return problem_review(candidate.problems, candidate.revision, notes)
    desired = candidate.desired
    admission = revisions.admit(desired, base, notes)
    found = Review(
        plan=Plan(revision=desired.revision.id, compared_with="nothing", problems=admission.problems),
        base=base.revision.id if base is not None and question.base is not None else "",
        fleet=export.recorded.fleet if export is not None else "",
        as_of=export.time if export is not None else None,
        notes=tuple(notes),
        settings=compare_settings(base, desired) if base is not None else (),
        opinions=admission.opinions,
        places=find_places(base, desired),
    )
    if admission.problems:
        return found
    return replace(found, plan=_plan(question, revisions, desired, base, export, admission.disputed))


def _rollbacks(question: Question) -> tuple[Rollback, ...]:
    """Those on record, where a person asks what the hub here will do."""
    if question.head is not None or question.base is not None or question.live is not None or question.worktree:
        return ()
    return recorded_rollbacks(data_folder(question.place, question.data) / "state.db")


def _plan(
    question: Question,
    revisions: Revisions,
    desired: Desired,
    base: Desired | None,
    export: "Export | None",
    disputed: tuple[str, ...],
) -> Plan:
    """Against the export, else the base, else the record, else nothing."""
    if export is not None:
        from reconciler.loop.export import plan_against_export

        assent = _assent(question, disputed, revisions.descends(export.recorded.revision, desired.revision.id))
        return plan_against_export(desired, export, assent)
    if base is not None:
        from reconciler.loop.base import plan_against_base

        assent = _assent(question, disputed, revisions.descends(base.revision.id, desired.revision.id))
        return plan_against_base(desired, base, assent, datetime.now(UTC))
    return _plan_by_itself(question, revisions, desired)


def _assent(question: Question, disputed: tuple[str, ...], follows: bool) -> "Assent":
    from reconciler.loop.recorded import Assent

    return Assent(confirmed=question.confirm, disputed=disputed, is_descendant=follows)


def _plan_by_itself(question: Question, revisions: Revisions, desired: Desired) -> Plan:
    file = data_folder(question.place, question.data) / "state.db"
    if question.base is None and file.exists():
        return _plan_by_record(file, revisions, desired, question.confirm)
    from reconciler.loop.nothing import plan_against_nothing

    return plan_against_nothing(desired)


def _plan_by_record(file: Path, revisions: Revisions, desired: Desired, confirm: str) -> Plan:
    from reconciler.clock import SystemClock
    from reconciler.errors import SourceError
    from reconciler.loop.kept import find_tip
    from reconciler.loop.recorded import plan_against_record
    from reconciler.loop.rollback import of_fleet
    from reconciler.store.store import Store

    store = Store(file, read_only=True)
    try:
        try:
            is_back = of_fleet(desired.rollbacks) is not None
            follows = is_back or revisions.descends(find_tip(store), desired.revision.id)
        except SourceError:
            follows = False
        return plan_against_record(desired, store, SystemClock(), is_descendant=follows, confirmed=confirm)
    finally:
        store.close()


def _load_base(question: Question, revisions: Revisions, export: "Export | None", notes: list[str]) -> Desired | None:
    """The revision named, else the one that the exported fleet is at. Its policies were judged when it was the head."""
    exported = _load_exported(question, revisions, export)
    if question.base is not None:
        candidate = revisions.load(revisions.named(question.base), is_judged=False)
        if candidate.desired is None:
            count = f"{len(candidate.problems)} problem{'s' * (len(candidate.problems) != 1)}"
            notes.append(f"the base {candidate.revision[:12]} is not valid itself ({count}), and is left out of it")
        elif export is not None and export.recorded.revision != candidate.revision:
            notes.append(f"the fleet is at {export.recorded.revision[:12]}, not at the base {candidate.revision[:12]}")
        return candidate.desired
    return exported


def _load_exported(question: Question, revisions: Revisions, export: "Export | None") -> Desired | None:
    """The revision that the exported fleet is at. Raises ForeignFleetError where this repository does not have it."""
    if export is None or not export.recorded.revision or ":" in export.recorded.revision:
        return None
    snapshot = revisions.known(export.recorded.revision)
    if snapshot is None:
        raise ForeignFleetError(
            f"{question.live} is of fleet {export.recorded.fleet}, which is at revision "
            f"{export.recorded.revision[:12]}, and {question.place} has no such commit; name the export of a fleet "
            "that follows this repository, or fetch its whole history"
        )
    return revisions.load(snapshot, is_judged=False).desired


def _read_live(question: Question) -> "Export | Problem | None":
    if question.live is None:
        return None
    from reconciler.cli.live import read_live

    export = read_live(question.live, question.token_file)
    if isinstance(export, Problem):
        return export
    _check_fleet(question, export)
    return export


def _check_fleet(question: Question, export: "Export") -> None:
    """An export of another fleet answers another question. Raises ForeignFleetError."""
    state = data_folder(question.place, question.data)
    home = open_home(state, create=False)
    if home is not None and home.fleet != export.recorded.fleet:
        raise ForeignFleetError(
            f"{question.live} is of fleet {export.recorded.fleet}, and {state} holds fleet {home.fleet}; "
            "name the export of that one, or another --data"
        )
