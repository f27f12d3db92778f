"""Conditions of the hub and of resources, and the mode that follows from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Mode(StrEnum):
    """`degraded`: nothing new is dispatched or provisioned. `offline` is what others see when the hub is gone."""

    NORMAL = "normal"
    DEGRADED = "degraded"
    OFFLINE = "offline"


NEVER = float("inf")
IN_WINDOW = -1.0
"""Instead of seconds: as long as the source may be away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What follows from a condition: the mode, and after how many seconds somebody is told."""

    degrades: bool = False
    tell_after_s: float = 0.0


RULES: Mapping[str, Rule] = {
    "StoreUnwritable": Rule(degrades=True),
    "LogUnwritable": Rule(degrades=True),
    "RuntimeUnavailable": Rule(degrades=True),
    "RouterDown": Rule(degrades=True, tell_after_s=10.0),
    "SourceUnavailable": Rule(tell_after_s=IN_WINDOW),
    "SourceUnsettled": Rule(tell_after_s=IN_WINDOW),
    "ConfigInvalid": Rule(tell_after_s=IN_WINDOW),
    "SandboxNotEnforced": Rule(tell_after_s=NEVER),
    "Distrusted": Rule(tell_after_s=NEVER),
    "Suspended": Rule(tell_after_s=NEVER),
}
"""The table of the contracts, §5; a type that is not in it degrades nothing, and is told at once."""

DEGRADING = frozenset(type_ for type_, rule in RULES.items() if rule.degrades)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`subject` is `hub` or a unit such as `agent/writer-0`; `since` is the time of the last transition (UTC).

    `alerted`: somebody was told that it is true, and not yet that it is over. `observed_revision` is the revision that
    was looked at when it was last found so, `input_digest` the digest of what that says of the subject; both are empty
    where there is none.
    """

    subject: str
    type: str
    status: bool
    reason: str
    message: str
    since: datetime
    alerted: bool = False
    observed_revision: str = ""
    input_digest: str = ""

    def to_json(self) -> dict[str, object]:
        return {
            "subject": self.subject,
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "since": self.since.isoformat(),
            "observedRevision": self.observed_revision,
            "inputDigest": self.input_digest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """That a condition is true now."""

    subject: str = "hub"
    type: str
    reason: str
    message: str

    @property
    def key(self) -> tuple[str, str]:
        return self.subject, self.type


def derive_mode(conditions: Iterable[Condition]) -> Mode:
    """The table of the contracts, §5: a degrading condition that is true makes the hub degraded."""
    degraded = any(c.status and c.subject == "hub" and c.type in DEGRADING for c in conditions)
    return Mode.DEGRADED if degraded else Mode.NORMAL
