"""What passes leave as it is because somebody asked for that: the whole fleet, or one resource, for a time or for good.

A suspension holds every change of its subject but those that protect others (a quarantine, the end of a time to live)
and those that operators ask for. What agents report is taken in all the same. It is over when it is taken back, or
when its time comes; both are rows of the audit log.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from reconciler.core.caller import Caller
from reconciler.core.change import Action, Cause, Change, Suspended
from reconciler.core.condition import Finding
from reconciler.core.plan import Plan
from reconciler.kinds.kind import World
from reconciler.store.audit import append
from reconciler.store.store import Store

SUSPENSIONS = "suspensions"
"""JSON, a list of suspensions by subject."""

FLEET = "fleet"

_NOTHING = frozenset({Action.KEEP, Action.HOLD})
_STILL_DONE = frozenset({Cause.OPERATOR, Cause.TTL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """`subject` is `fleet` or KIND/NAME; `until` and `at` are ISO with a zone, `until` empty where it has no end."""

    subject: str
    until: str
    reason: str
    actor: str
    at: str

    def __str__(self) -> str:
        until = f" until {self.until}" if self.until else ""
        return f"suspended by {self.actor}{until}{f': {self.reason}' if self.reason else ''}"

    def covers(self, change: Change) -> bool:
        """Whether the change is held by it. An instance is suspended with its agent, or by its own name."""
        if change.action in _NOTHING or change.action is Action.QUARANTINE or change.cause in _STILL_DONE:
            return False
        return self.subject in (FLEET, f"{change.kind}/{change.name}", change.unit)

    def names(self, *subjects: str) -> bool:
        """Whether it is of one of these, or of the fleet."""
        return self.subject == FLEET or self.subject in subjects

    def left_s(self, now: datetime) -> float | None:
        """Seconds until it ends by itself; None where it does not."""
        return (datetime.fromisoformat(self.until) - now).total_seconds() if self.until else None


def read_suspensions(store: Store) -> tuple[Suspension, ...]:
    """Those on record, by subject. Raises StoreError."""
    return tuple(Suspension(**one) for one in json.loads(store.get_meta(SUSPENSIONS) or "[]"))


def hold_suspended(plan: Plan, suspensions: Sequence[Suspension], now: datetime) -> Plan:
    """The plan with all that is suspended on hold, and why. Pure."""
    return replace(plan, changes=tuple(_hold(c, suspensions, now) for c in plan.changes)) if suspensions else plan


def find_suspended(suspensions: Sequence[Suspension]) -> Sequence[Finding]:
    """The condition `Suspended` of each subject; that of the fleet is the hub's."""
    return [
        Finding(subject="hub" if s.subject == FLEET else s.subject, type="Suspended", reason="Asked", message=str(s))
        for s in suspensions
    ]


def suspend(world: World, suspension: Suspension, revision: str) -> None:
    """Note it, instead of an earlier one of the same subject. Raises StoreError."""
    others = [s for s in read_suspensions(world.store) if s.subject != suspension.subject]
    _write(world, [*others, suspension], "suspend", suspension, suspension.actor, str(suspension), revision)


def resume(world: World, subject: str, caller: Caller, revision: str) -> Suspension | None:
    """Take it back; None where there is none of this subject. Raises StoreError."""
    known = read_suspensions(world.store)
    found = next((s for s in known if s.subject == subject), None)
    if found is not None:
        _write(world, [s for s in known if s is not found], "resume", found, str(caller), caller.asked, revision)
    return found


def end_expired(world: World, revision: str) -> tuple[Suspension, ...]:
    """Those that still hold, after the others were taken off the record. Raises StoreError."""
    known, now = read_suspensions(world.store), world.clock.now()
    for one in known:
        if (left_s := one.left_s(now)) is not None and left_s <= 0:
            known = tuple(s for s in known if s is not one)
            _write(world, known, "resume", one, "hub", f"its time was over: {one}", revision)
    return known


def _write(
    world: World, left: Sequence[Suspension], action: str, what: Suspension, actor: str, why: str, revision: str
) -> None:
    ordered = sorted(left, key=lambda s: s.subject)
    kind, _, name = what.subject.partition("/")
    entry = world.entry(
        revision=revision,
        actor=actor,
        cause=str(Cause.OPERATOR),
        kind=kind,
        name=name or world.fleet,
        action=action,
        outcome="applied",
        reason=why,
    )
    with world.store.transaction():
        world.store.set_meta(SUSPENSIONS, json.dumps([asdict(s) for s in ordered]))
        append(world.store, [entry])


def _hold(change: Change, suspensions: Sequence[Suspension], now: datetime) -> Change:
    held_by = next((s for s in suspensions if s.covers(change)), None)
    if held_by is None:
        return change
    return replace(
        change,
        action=Action.HOLD,
        towards=None,
        concern=None,
        wait_s=held_by.left_s(now),
        reason=f"{change.reason}; {held_by}",
        suspended=Suspended(by=str(held_by), would=change.action, reason=change.reason),
    )
