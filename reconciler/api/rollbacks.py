"""What operators roll back: the whole fleet or one resource. Noted in the record, carried out by the next pass."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from reconciler.api.access import RefusedRequest
from reconciler.core.caller import Caller
from reconciler.core.rollback import FLEET
from reconciler.loop.revision import Unfit
from reconciler.loop.rollback import read_rollbacks
from reconciler.loop.run import Loop
from reconciler.store.store import Store

_KINDS = ("agent", "task")
"""What is a manifest of its own; schemas, policies and settings go back with the whole fleet."""
_KEYS = {"subject", "to"}
_LONGEST = 250


def list_rollbacks(store: Store) -> Mapping[str, Any]:
    return {"rollbacks": [asdict(r) for r in read_rollbacks(store)]}


def roll_back_subject(loop: Loop, content: bytes, caller: Caller) -> Mapping[str, Any]:
    """`{"subject", "to"}`: `fleet` or KIND/NAME, and a commit, branch or tag. Raises RefusedRequest."""
    asked = _read(content)
    subject, to = _check_subject(asked["subject"]), asked["to"]
    if not to or len(to) > _LONGEST or not to.isprintable():
        raise RefusedRequest("to: name a commit, a branch or a tag", status=400)
    made = loop.roll_back(subject, to, caller)
    if isinstance(made, Unfit):
        raise RefusedRequest(made.reason, status=404 if made.is_unknown else 422)
    return asdict(made)


def clear_subject(loop: Loop, store: Store, subject: str, caller: Caller) -> Mapping[str, Any]:
    """Raises RefusedRequest where it was not rolled back."""
    found = loop.clear_rollback(subject, caller)
    if found is None:
        there = ", ".join(r.subject for r in read_rollbacks(store)) or "nothing is"
        raise RefusedRequest(f"{subject} is not rolled back ({there})", status=404)
    return asdict(found)


def _read(content: bytes) -> Mapping[str, str]:
    try:
        asked = json.loads(content)
    except ValueError as exc:
        raise RefusedRequest(f"the body is not JSON: {exc}", status=400) from exc
    if not isinstance(asked, dict) or not all(isinstance(asked.get(key), str) for key in _KEYS):
        message = 'the body must be an object with "subject", `fleet` or KIND/NAME, and "to", a revision'
        raise RefusedRequest(message, status=400)
    if unknown := sorted(asked.keys() - _KEYS):
        raise RefusedRequest(f"unknown keys: {', '.join(unknown)}; there are {', '.join(sorted(_KEYS))}", status=400)
    return asked


def _check_subject(subject: str) -> str:
    kind, _, name = subject.partition("/")
    if subject != FLEET and (kind not in _KINDS or not name or len(subject) > _LONGEST):
        message = f"{subject[:100]!r} is not `fleet`, agent/NAME or task/NAME; all else goes back with the whole fleet"
        raise RefusedRequest(message, status=400)
    return subject
