"""Alerts: conditions come in, and what somebody has to be told of their beginnings and ends goes out. Pure."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Literal

from reconciler.core.condition import IN_WINDOW, NEVER, RULES, Condition, Mode, Rule

MODE = "ModeChanged"
_UNKNOWN = Rule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a sink gets: that something is so (`raised`), or is so no more (`cleared`). Times are ISO, UTC."""

    fleet: str
    status: Literal["raised", "cleared"]
    type: str
    subject: str
    reason: str
    message: str
    since: str
    time: str

    @property
    def id(self) -> str:
        """The same for each try to deliver it."""
        said = json.dumps([self.fleet, self.status, self.type, self.subject, self.since, self.time])
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    def document(self) -> str:
        return json.dumps({"id": self.id, **asdict(self)}, ensure_ascii=False)


def settle(
    conditions: Iterable[Condition], fleet: str, source_window_s: float, now: datetime
) -> tuple[list[Condition], list[Notice]]:
    """The conditions that are to be told of now, marked so, and the notices. Each beginning and end is told once.

    What was over before anybody was told is not told at all.
    """
    changed: list[Condition] = []
    notices: list[Notice] = []
    for condition in conditions:
        if condition.status == condition.alerted:
            continue
        if condition.status and not _is_due(condition, source_window_s, now):
            continue
        changed.append(replace(condition, alerted=condition.status))
        notices.append(_notice(condition, fleet, now))
    return changed, notices


def tell_mode(mode: Mode, conditions: Sequence[Condition], fleet: str, now: datetime) -> Notice:
    """That the mode is another one now, and why."""
    why = ", ".join(c.type for c in conditions if c.status and c.type in RULES and RULES[c.type].degrades)
    return Notice(
        fleet=fleet,
        status="cleared" if mode is Mode.NORMAL else "raised",
        type=MODE,
        subject="hub",
        reason=str(mode),
        message=f"the hub is {mode}{f': {why}' if why else ''}",
        since=now.isoformat(),
        time=now.isoformat(),
    )


def _is_due(condition: Condition, source_window_s: float, now: datetime) -> bool:
    """Where the clock was set back nobody can say how long it was true; better too soon than never."""
    after_s, passed_s = _tell_after_s(condition, source_window_s), (now - condition.since).total_seconds()
    return after_s != NEVER and (passed_s >= after_s or passed_s < 0)


def _tell_after_s(condition: Condition, source_window_s: float) -> float:
    after_s = RULES.get(condition.type, _UNKNOWN).tell_after_s
    return source_window_s if after_s == IN_WINDOW else after_s


def _notice(condition: Condition, fleet: str, now: datetime) -> Notice:
    return Notice(
        fleet=fleet,
        status="raised" if condition.status else "cleared",
        type=condition.type,
        subject=condition.subject,
        reason=condition.reason,
        message=condition.message or "it is over",
        since=condition.since.isoformat(),
        time=now.isoformat(),
    )
