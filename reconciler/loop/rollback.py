"""What was rolled back: kept in the record, so that no pass takes the skipped revision up again, also after a restart.

A rollback of the fleet holds while the source has nothing newer than what was skipped; one of a resource while git says
of it what it said then. It is over when a revision is accepted for which it does not hold, or when somebody clears it;
all of it are rows of the audit log.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from reconciler.core.caller import Caller
from reconciler.core.change import Action, Cause, Change
from reconciler.core.condition import Finding
from reconciler.core.plan import Plan
from reconciler.core.rollback import FLEET, SHORT, Rollback
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.manifest import Manifest
from reconciler.store.audit import AuditEntry, append
from reconciler.store.store import Store

ROLLBACKS = "rollbacks"
"""JSON, a list of rollbacks by subject."""

ROLL_BACK, END = "rollback", "rollback-end"


def read_rollbacks(store: Store) -> tuple[Rollback, ...]:
    """Those on record, by subject, whether they hold or not. Raises StoreError."""
    return tuple(Rollback(**one) for one in json.loads(store.get_meta(ROLLBACKS) or "[]"))


def note_rollback(world: World, made: Rollback, revision: str) -> None:
    """Note it, instead of an earlier one of the same subject. Raises StoreError."""
    others = [r for r in read_rollbacks(world.store) if r.subject != made.subject]
    after = json.dumps({"to": made.to, "skipped": made.since})
    cause = Cause.OPERATOR if made.is_asked else Cause.CRASH
    entry = _entry(world, made, revision, action=ROLL_BACK, actor=made.actor, cause=str(cause), reason=str(made))
    _write(world, [*others, made], [replace(entry, after=after)])


def clear_rollback(world: World, subject: str, caller: Caller, revision: str) -> Rollback | None:
    """Take it back; None where there is none of this subject. Raises StoreError."""
    known = read_rollbacks(world.store)
    found = next((r for r in known if r.subject == subject), None)
    if found is not None:
        entry = _entry(world, found, revision, action=END, actor=str(caller), cause="operator", reason=caller.asked)
        _write(world, [r for r in known if r is not found], [entry])
    return found


def end_superseded(world: World, accepted: Desired) -> None:
    """A revision of the source is in force: what does not hold for it is over. Raises StoreError."""
    known = read_rollbacks(world.store)
    over = [r for r in known if r not in accepted.rollbacks]
    if not over:
        return
    revision = accepted.revision
    entries = [
        _entry(
            world,
            one,
            revision.id,
            action=END,
            actor=revision.author or "hub",
            cause=str(Cause.COMMIT),
            reason=f"{revision.id[:SHORT]} ends it: {one}",
        )
        for one in over
    ]
    _write(world, [r for r in known if r in accepted.rollbacks], entries)


def find_rolled_back(rollbacks: Iterable[Rollback]) -> Sequence[Finding]:
    """The condition `RolledBack` of each subject; that of the fleet is the hub's."""
    return [
        Finding(
            subject="hub" if r.is_of_fleet else r.subject,
            type="RolledBack",
            reason="Asked" if r.is_asked else "Unhealthy",
            message=f"{r}; {r.ends}",
        )
        for r in rollbacks
    ]


def mark_rolled_back(plan: Plan, rollbacks: Sequence[Rollback]) -> Plan:
    """The plan with who rolled it back behind the reason of what that changes, and of instances as they are. Pure."""
    return replace(plan, changes=tuple(_mark(c, rollbacks) for c in plan.changes)) if rollbacks else plan


def _mark(change: Change, rollbacks: Sequence[Rollback]) -> Change:
    is_kept = change.action is Action.KEEP
    is_about_it = change.instance is not None if is_kept else change.cause is Cause.COMMIT
    if not is_about_it:
        return change
    back = next((r for r in rollbacks if r.covers(change)), None)
    return change if back is None else replace(change, reason=f"{change.reason}; {back}")


# --- what a rollback of a resource makes of a revision ----------------------------------------------------------------


def digest_of(desired: Desired, subject: str) -> str:
    """Of one resource as a revision has it; empty where it is not there."""
    kind, _, name = subject.partition("/")
    found = desired.of(kind).get(name)
    return str(found.digest) if found is not None else ""


def find_holding(desired: Desired, rollbacks: Iterable[Rollback]) -> tuple[Rollback, ...]:
    """Rollbacks of resources of which a revision says what the skipped one said."""
    return tuple(r for r in rollbacks if not r.is_of_fleet and digest_of(desired, r.subject) == r.skipped)


def find_resource(desired: Desired, subject: str) -> Any:
    """One resource as a revision has it; None where it is not there."""
    kind, _, name = subject.partition("/")
    found = desired.of(kind).get(name)
    return replace(found, revision=desired.revision.id) if isinstance(found, Manifest) else None


def lay_over(desired: Desired, older: Mapping[Rollback, Any]) -> Desired:
    """The revision, with each resource as its rollback wants it, or without it. Pure."""
    loaded = dict(desired.loaded)
    for rollback, resource in older.items():
        kind, _, name = rollback.subject.partition("/")
        by_name = {n: r for n, r in loaded[kind].by_name.items() if n != name}
        if resource is not None:
            by_name[name] = resource
        loaded[kind] = replace(loaded[kind], by_name=by_name)
    return replace(desired, loaded=loaded, rollbacks=tuple(older))


def of_fleet(rollbacks: Iterable[Rollback]) -> Rollback | None:
    return next((r for r in rollbacks if r.subject == FLEET), None)


# --- the record -------------------------------------------------------------------------------------------------------


def _entry(world: World, what: Rollback, revision: str, **fields: str) -> AuditEntry:
    kind, _, name = what.subject.partition("/")
    return world.entry(revision=revision, kind=kind, name=name or world.fleet, outcome="applied", **fields)


def _write(world: World, left: Sequence[Rollback], entries: Sequence[AuditEntry]) -> None:
    ordered = sorted(left, key=lambda r: r.subject)
    with world.store.transaction():
        world.store.set_meta(ROLLBACKS, json.dumps([asdict(r) for r in ordered]))
        append(world.store, entries)
