"""What a pass finds that a person should know of, besides what cannot be read and what the kinds find.

Each is a condition for as long as it is found. What is an event and not a state, such as a flood, counts as true until
there was none for a while.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from reconciler.core.change import Action
from reconciler.core.condition import Finding
from reconciler.core.outcome import Applied
from reconciler.core.plan import Plan
from reconciler.core.quantity import show_duration
from reconciler.kinds.kind import Facts
from reconciler.loop.apply import Done
from reconciler.store import records
from reconciler.store.store import Store
from reconciler.store.trust import Alarm, alarms_since, newest_row

ALARM_CURSOR = "alarm_cursor"
QUIET_S: Final = 300.0
ALARMS: Mapping[str, str] = {
    "hub.flood": "Flooding",
    "hub.forged": "ForgedSender",
    "security.alert": "SecurityAlert",
}
"""The condition of an instance by the type of the message that told of it."""


def find_concerns(plan: Plan) -> Sequence[Finding]:
    """What the plan says of resources."""
    concerns = [c.concern for c in plan.changes if c.concern is not None]
    return [Finding(subject=c.subject, type=c.type, reason="Planned", message=c.message) for c in concerns]


def find_distrusted(facts: Facts) -> Sequence[Finding]:
    """Agents that are not trusted any more."""
    return [
        Finding(subject=f"agent/{name}", type="Distrusted", reason="BelowThreshold", message=why)
        for name, why in sorted(facts.distrusted.items())
    ]


class Throughput:
    """Whether tasks wait while none is dispatched. In memory: a new hub has seen nothing yet."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._moved_at = now_s()

    def note(self, done: Iterable[Done]) -> None:
        """What a pass did."""
        if any(d.change.action is Action.DISPATCH and isinstance(d.outcome, Applied) for d in done):
            self._moved_at = self._now_s()

    def find(self, waiting: int, window_s: float) -> Sequence[Finding]:
        """`waiting` are tasks that could begin; while there are none, nothing is missed."""
        if not waiting:
            self._moved_at = self._now_s()
        still_s = self._now_s() - self._moved_at
        if still_s < window_s:
            return []
        message = f"tasks wait, and none was dispatched for {show_duration(window_s)}; see `reconciler status`"
        return [Finding(type="NothingDispatched", reason="Waiting", message=message)]


class Alarms:
    """Floods, forged senders and alerts of agents, as rows of the audit log told of them."""

    def __init__(self, store: Store, now_s: Callable[[], float]) -> None:
        """Goes on where an earlier hub was; what was true for that has `QUIET_S` more. Raises StoreError."""
        self._store, self._now_s = store, now_s
        kept = store.get_meta(ALARM_CURSOR)
        self._cursor = int(kept) if kept is not None else newest_row(store)
        self._is_new = kept is None
        self._true: dict[tuple[str, str], tuple[float, Finding]] = {}
        for (subject, type_), c in records.conditions(store).items():
            if c.status and type_ in ALARMS.values():
                finding = Finding(subject=subject, type=type_, reason=c.reason, message=c.message)
                self._true[subject, type_] = (now_s(), finding)

    def find(self) -> Sequence[Finding]:
        """Those of the last minutes. Raises StoreError."""
        now_s, newest = self._now_s(), newest_row(self._store)
        found = alarms_since(self._store, self._cursor, ALARMS) if newest > self._cursor else []
        for alarm in found:
            finding = _finding(alarm)
            self._true[finding.key] = (now_s, finding)
        self._is_new = self._is_new or bool(found)
        self._true = {key: kept for key, kept in self._true.items() if 0 <= now_s - kept[0] < QUIET_S}
        self._cursor = newest
        return [finding for _, finding in self._true.values()]

    def keep(self) -> None:
        """Once its findings are on record, they need not be found again. Raises StoreError."""
        if self._is_new:
            self._store.set_meta(ALARM_CURSOR, str(self._cursor))
            self._is_new = False


def _finding(alarm: Alarm) -> Finding:
    subject = f"agent/{alarm.actor.removeprefix('agent:')}"
    return Finding(subject=subject, type=ALARMS[alarm.type], reason="Reported", message=alarm.reason)
