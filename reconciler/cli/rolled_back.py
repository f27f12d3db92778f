"""The newest revision as the record of rollbacks leaves it: what a hub would work towards, found without one."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from reconciler.cli.revisions import Revisions
from reconciler.core.rollback import Rollback
from reconciler.errors import SourceError
from reconciler.kinds import KINDS
from reconciler.loop.desired import Candidate, check_whole, routed
from reconciler.loop.rollback import find_holding, find_resource, lay_over, of_fleet, read_rollbacks
from reconciler.ports import Snapshot
from reconciler.settings import OperatorSpec
from reconciler.store.store import Store


def recorded_rollbacks(file: Path) -> tuple[Rollback, ...]:
    """Those of a state.db; none where there is no such file. Raises StoreError."""
    if not file.exists():
        return ()
    store = Store(file, read_only=True)
    try:
        return read_rollbacks(store)
    finally:
        store.close()


def load_rolled_back(
    revisions: Revisions, newest: Snapshot, rollbacks: tuple[Rollback, ...], operator: OperatorSpec, notes: list[str]
) -> Candidate:
    """The newest revision, or the one that the fleet went back to, with notes on it. Raises SourceError."""
    back = of_fleet(rollbacks)
    if back is not None and _holds(back, newest.revision.id, revisions):
        newest.close()
        notes.append(f"{back}; {back.ends}")
        candidate = revisions.load(revisions.named(back.to))
        desired = replace(candidate.desired, rollbacks=(back,)) if candidate.desired is not None else None
        return replace(candidate, desired=desired)
    candidate = revisions.load(newest)
    holding = find_holding(candidate.desired, rollbacks) if candidate.desired is not None else ()
    if candidate.desired is None or not holding:
        return candidate
    older = {r: revisions.load(revisions.named(r.to), is_judged=False).desired for r in holding}
    laid = lay_over(candidate.desired, {r: find_resource(d, r.subject) for r, d in older.items() if d is not None})
    notes.extend(f"{r.subject} is {r}; {r.ends}" for r in laid.rollbacks)
    if problems := check_whole(laid, KINDS, operator):
        return Candidate(revision=candidate.revision, desired=None, problems=tuple(problems))
    return Candidate(revision=candidate.revision, desired=routed(laid, KINDS))


def _holds(back: Rollback, newest: str, revisions: Revisions) -> bool:
    """As for a hub: while there is nothing newer than what is skipped."""
    if newest == back.since:
        return True
    with suppress(SourceError):
        return revisions.descends(newest, back.since)
    return False
