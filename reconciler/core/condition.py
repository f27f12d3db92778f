"""Conditions of the hub and of resources, and the mode that follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Mode(StrEnum):
    """`degraded`: nothing new is dispatched or provisioned. `offline` is what others see when the hub is gone."""

    NORMAL = "normal"
    DEGRADED = "degraded"
    OFFLINE = "offline"


DEGRADING = frozenset({"StoreUnwritable", "LogUnwritable", "RuntimeUnavailable", "RouterDown"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`subject` is `hub` or a unit such as `agent/writer-0`; `since` is the time of the last transition (UTC)."""

    subject: str
    type: str
    status: bool
    reason: str
    message: str
    since: datetime

    def to_json(self) -> dict[str, object]:
        return {
            "subject": self.subject,
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "since": self.since.isoformat(),
        }


def derive_mode(conditions: Iterable[Condition]) -> Mode:
    """The table of the contracts, §5: a degrading condition that is true makes the hub degraded."""
    degraded = any(c.status and c.subject == "hub" and c.type in DEGRADING for c in conditions)
    return Mode.DEGRADED if degraded else Mode.NORMAL
