"""Telling the sinks of `alerts.sinks`: each transition once, also over a restart, without waiting for any.

What is to be told is decided by `core/alert.py`. Notices are written with the conditions that they are of, and go out
by `loop/outbox.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.alerts.log import LogSink
from reconciler.alerts.sink import Sink
from reconciler.core.alert import Notice, settle, tell_mode
from reconciler.core.condition import Condition, Finding, Mode, derive_mode
from reconciler.loop.outbox import Outbox
from reconciler.ports import Clock
from reconciler.settings import LOG_SINK
from reconciler.settings import Alerts as Settings
from reconciler.store.records import NoticeRecord
from reconciler.store.store import Store

TOLD_MODE = "told_mode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What one pass has to tell: conditions as they are from now on, the mode where it is another one, the notices."""

    changed: tuple[Condition, ...] = ()
    mode: Mode | None = None
    notices: tuple[Notice, ...] = ()
    rows: tuple[NoticeRecord, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed) or self.mode is not None


class Alerts:
    """Settles what is to be told, and hands it to the couriers."""

    def __init__(
        self, store: Store, fleet: str, clock: Clock, log: Sink | None = None, outbox: Outbox | None = None
    ) -> None:
        self._store, self._fleet, self._clock = store, fleet, clock
        self._log = log or LogSink()
        self.outbox = outbox or Outbox(store)
        self._told_mode = store.get_meta(TOLD_MODE) or str(Mode.NORMAL)

    def faults(self) -> Sequence[Finding]:
        """Sinks that are away."""
        return self.outbox.faults()

    def settle(self, conditions: Sequence[Condition], settings: Settings) -> Telling:
        """What has to be told of the conditions as they are now."""
        now = self._clock.now()
        changed, notices = settle(conditions, self._fleet, settings.source_window, now)
        mode = derive_mode(conditions)
        is_other = mode != self._told_mode
        if is_other:
            notices.append(tell_mode(mode, conditions, self._fleet, now))
        rows = tuple(r for n in notices for sink in settings.sinks for r in self.outbox.address(sink, n.document()))
        logged = tuple(notices) if LOG_SINK in settings.sinks else ()
        return Telling(changed=tuple(changed), mode=mode if is_other else None, notices=logged, rows=rows)

    def keep(self, telling: Telling) -> None:
        """Write it down, in the caller's transaction. Raises StoreError."""
        self.outbox.keep(telling.rows)
        if telling.mode is not None:
            self._store.set_meta(TOLD_MODE, str(telling.mode))

    def tell(self, telling: Telling) -> None:
        """Once it is durable: have it delivered."""
        if telling.mode is not None:
            self._told_mode = str(telling.mode)
        for notice in telling.notices:
            self._log.send(notice.document().encode())
        self.outbox.send(telling.rows)

    def tell_unkept(self, condition: Condition, settings: Settings) -> None:
        """Of a condition that nothing can be written down of."""
        telling = self.settle([condition], settings)
        self.tell(Telling(mode=telling.mode, notices=telling.notices))
        self.outbox.send_unkept(telling.rows)
