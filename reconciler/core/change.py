"""One change of one resource: what will be done, which fields differ, and why, decided when planning."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_MISSING = object()


class Action(StrEnum):
    """What applying does. `KEEP` answers the question why nothing happened."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    RESTART = "restart"
    REMOVE = "remove"
    QUARANTINE = "quarantine"
    DEACTIVATE = "deactivate"
    AUTHORISE = "authorise"
    DISPATCH = "dispatch"
    CANCEL = "cancel"
    CHECK = "check"
    COMPLETE = "complete"
    TIME_OUT = "time_out"
    RETRY = "retry"
    RECYCLE = "recycle"
    HOLD = "hold"
    KEEP = "keep"


class Cause(StrEnum):
    """Why a change is due; the word that the audit row carries."""

    COMMIT = "commit"
    DRIFT = "drift"
    CRASH = "crash"
    POLICY = "policy"
    OPERATOR = "operator"
    TTL = "ttl"
    SCHEDULE = "schedule"
    INBOX = "inbox"
    DELEGATION = "delegation"
    START = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """`path` is dotted, as in the manifest; `before` is None where the field is new, `after` where it goes."""

    path: str
    before: Any = None
    after: Any = None

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """A condition of the resource `subject` that is true for as long as this is planned for it."""

    subject: str
    type: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """What would be done, and why, if nobody had asked that it be left; `by` says who did, until when and for what."""

    by: str
    would: Action
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of a plan.

    `spec` is the resolved specification that applying uses; it is not part of the JSON, its digest is. `disruptive`
    means that running work is interrupted. `wait_s` says in how many seconds a HOLD is due, or a KEEP that goes by the
    clock. `instance` names the instance of an agent, where the change is about one. `towards` is what a step prepares:
    draining leads to REMOVE, and waiting for a place leads to CREATE.
    `is_scaling` marks a removal that leaves its name in git, which only asks for fewer. `suspended` is given where the
    change is a HOLD for that reason.
    """

    kind: str
    name: str
    action: Action
    cause: Cause = Cause.COMMIT
    reason: str
    instance: str | None = None
    fields: tuple[FieldChange, ...] = ()
    disruptive: bool = False
    spec_digest: str = ""
    spec: Any = None
    wait_s: float | None = None
    towards: Action | None = None
    is_scaling: bool = False
    concern: Concern | None = None
    suspended: Suspended | None = None

    @property
    def unit(self) -> str:
        """What backs off and stalls on its own: `agent/writer-0`, `task/changelog`."""
        return f"{self.kind}/{self.instance or self.name}"

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            **({"instance": self.instance} if self.instance else {}),
            "action": str(self.action),
            "cause": str(self.cause),
            "reason": self.reason,
            "fields": [f.to_json() for f in self.fields],
            "disruptive": self.disruptive,
            "spec_digest": self.spec_digest,
        }


def show_suspended(suspended: Suspended) -> str:
    """By whom, and what would be done: `suspended by uid:7; without that the hub would replace it: …`."""
    return f"{suspended.by}; without that the hub would {suspended.would} it: {suspended.reason}"


def diff_fields(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> tuple[FieldChange, ...]:
    """The leaves in which two nested mappings differ, in path order. Lists are compared whole."""
    out: list[FieldChange] = []
    for key in sorted(before.keys() | after.keys()):
        path = f"{prefix}{key}"
        old, new = before.get(key, _MISSING), after.get(key, _MISSING)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            out.extend(diff_fields(old, new, f"{path}."))
        elif old != new:
            out.append(
                FieldChange(path=path, before=None if old is _MISSING else old, after=None if new is _MISSING else new)
            )
    return tuple(out)
