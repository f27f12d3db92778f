"""Telling the sinks of `alerts.sinks`: each transition once, also over a restart, without waiting for any.

What is to be told is decided by `core/alert.py`. Notices are rows of state.db, written with the conditions that they
are of, until their sink has them; a hub that was killed goes on with what is left.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.alerts.courier import Courier
from reconciler.alerts.log import LogSink
from reconciler.alerts.sink import Sink
from reconciler.core.alert import Notice, settle, tell_mode
from reconciler.core.condition import Condition, Finding, Mode, derive_mode
from reconciler.errors import StoreError
from reconciler.ports import Clock
from reconciler.settings import LOG_SINK
from reconciler.settings import Alerts as Settings
from reconciler.store import records
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

    def __init__(self, store: Store, fleet: str, clock: Clock, log: Sink | None = None) -> None:
        self._store, self._fleet, self._clock = store, fleet, clock
        self._log = log or LogSink()
        self._couriers: Mapping[str, Courier] = {}
        self._told_mode = store.get_meta(TOLD_MODE) or str(Mode.NORMAL)
        self._arrived: list[int] = []
        self._left = records.notices(store)
        self._seq = max((row.seq or 0 for row in self._left), default=0)

    def start(self, couriers: Mapping[str, Courier]) -> None:
        """Deliver from now on, first what an earlier hub left. Raises StoreError."""
        self._couriers = couriers
        lost = [row.seq for row in self._left if row.seq is not None and row.sink not in couriers]
        records.delete_notices(self._store, lost)
        for courier in couriers.values():
            courier.start()
        self._offer(row for row in self._left if row.sink in couriers)

    def close(self) -> None:
        """Deliver nothing more. What is left is delivered by the next hub."""
        for courier in self._couriers.values():
            courier.close()

    def arrived(self, seq: int) -> None:
        """A sink has it. Called by couriers; a row that cannot be removed now is removed with the next one."""
        self._arrived.append(seq)
        seqs = self._arrived[:]
        try:
            records.delete_notices(self._store, seqs)
        except StoreError:
            return
        del self._arrived[: len(seqs)]

    def faults(self) -> Sequence[Finding]:
        """Sinks that are away."""
        return [
            Finding(subject=f"sink/{name}", type="SinkAway", reason="NoAnswer", message=courier.fault)
            for name, courier in sorted(self._couriers.items())
            if courier.fault
        ]

    def settle(self, conditions: Sequence[Condition], settings: Settings) -> Telling:
        """What has to be told of the conditions as they are now."""
        now = self._clock.now()
        changed, notices = settle(conditions, self._fleet, settings.source_window, now)
        mode = derive_mode(conditions)
        is_other = mode != self._told_mode
        if is_other:
            notices.append(tell_mode(mode, conditions, self._fleet, now))
        rows: list[NoticeRecord] = []
        for notice in notices:
            for sink in settings.sinks:
                if sink in self._couriers:
                    self._seq += 1
                    rows.append(NoticeRecord(seq=self._seq, sink=sink, document=notice.document()))
        logged = tuple(notices) if LOG_SINK in settings.sinks else ()
        return Telling(changed=tuple(changed), mode=mode if is_other else None, notices=logged, rows=tuple(rows))

    def keep(self, telling: Telling) -> None:
        """Write it down, in the caller's transaction. Raises StoreError."""
        records.put_notices(self._store, telling.rows)
        if telling.mode is not None:
            self._store.set_meta(TOLD_MODE, str(telling.mode))

    def tell(self, telling: Telling) -> None:
        """Once it is durable: have it delivered."""
        if telling.mode is not None:
            self._told_mode = str(telling.mode)
        for notice in telling.notices:
            self._log.send(notice.document().encode())
        self._offer(telling.rows)

    def tell_unkept(self, condition: Condition, settings: Settings) -> None:
        """Of a condition that nothing can be written down of."""
        telling = self.settle([condition], settings)
        self.tell(Telling(mode=telling.mode, notices=telling.notices))
        for row in telling.rows:
            self._couriers[row.sink].offer(None, row.document)

    def _offer(self, rows: Iterable[NoticeRecord]) -> None:
        for row in rows:
            self._couriers[row.sink].offer(row.seq, row.document)
