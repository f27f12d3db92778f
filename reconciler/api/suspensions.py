"""What operators suspend and resume: one resource or the whole fleet. Noted in the record, obeyed by the next pass."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from reconciler.api.access import RefusedRequest
from reconciler.core.caller import Caller
from reconciler.core.quantity import parse_duration_s
from reconciler.core.timestamp import read_timestamp
from reconciler.kinds import KINDS
from reconciler.kinds.kind import World
from reconciler.loop.suspend import FLEET, Suspension, read_suspensions, resume, suspend
from reconciler.store import records

_KINDS = tuple(kind.name for kind in KINDS)
_KEYS = {"subject", "until"}


def list_suspensions(world: World) -> Mapping[str, Any]:
    return {"suspensions": [asdict(s) for s in read_suspensions(world.store)]}


def suspend_subject(
    world: World, content: bytes, caller: Caller, known: frozenset[str], revision: str
) -> Mapping[str, Any]:
    """`{"subject", "until"}`, of which only the first must be; `known` are the units of the last plan.

    Raises RefusedRequest.
    """
    asked = _read(content)
    subject = _check_subject(asked["subject"], world, known)
    now = world.clock.now()
    made = Suspension(
        subject=subject,
        until=_read_until(asked.get("until", ""), now),
        reason=caller.reason,
        actor=str(caller),
        at=now.isoformat(),
    )
    suspend(world, made, revision)
    return asdict(made)


def resume_subject(world: World, subject: str, caller: Caller, revision: str) -> Mapping[str, Any]:
    """Raises RefusedRequest where it is not suspended."""
    found = resume(world, subject, caller, revision)
    if found is None:
        there = ", ".join(s.subject for s in read_suspensions(world.store)) or "nothing is"
        raise RefusedRequest(f"{subject} is not suspended ({there})", status=404)
    return asdict(found)


def _read(content: bytes) -> Mapping[str, Any]:
    try:
        asked = json.loads(content)
    except ValueError as exc:
        raise RefusedRequest(f"the body is not JSON: {exc}") from exc
    if not isinstance(asked, dict) or not isinstance(asked.get("subject"), str):
        raise RefusedRequest('the body must be an object with a "subject", `fleet` or KIND/NAME')
    if unknown := sorted(asked.keys() - _KEYS):
        raise RefusedRequest(f"unknown keys: {', '.join(unknown)}; there are {', '.join(sorted(_KEYS))}")
    return asked


def _check_subject(subject: str, world: World, known: frozenset[str]) -> str:
    kind, slash, name = subject.partition("/")
    if subject == FLEET:
        return subject
    if kind not in _KINDS or not slash or not name:
        raise RefusedRequest(f"{subject[:100]!r} is not `fleet` or KIND/NAME; kinds are {', '.join(_KINDS)}")
    instances = records.instances(world.store).values()
    on_record = {f"agent/{i.agent}" for i in instances} | {f"agent/{i.name}" for i in instances}
    is_run = kind == "task" and bool(records.tasks_of(world.store, name))
    if subject not in known | on_record and not is_run:
        raise RefusedRequest(f"there is no {kind} {name[:100]!r} in git or on record", status=404)
    return subject


def _read_until(until: object, now: datetime) -> str:
    """ISO in UTC for a timestamp with a zone, or for a duration from now; empty for no end."""
    if until == "":
        return ""
    if isinstance(until, str) and (wall_s := read_timestamp(until)) is not None:
        end_s = wall_s
    else:
        try:
            end_s = now.timestamp() + parse_duration_s(until)
        except ValueError:
            shown = str(until)[:60]
            message = f"until: {shown!r} is neither a duration (2h) nor a time with a zone (2026-01-31T18:00:00Z)"
            raise RefusedRequest(message) from None
    if end_s <= now.timestamp():
        raise RefusedRequest(f"until: {str(until)[:60]!r} is over already")
    try:
        return datetime.fromtimestamp(end_s, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        raise RefusedRequest(f"until: {str(until)[:60]!r} is too far away") from None
