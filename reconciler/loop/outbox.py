"""What is on its way to couriers: rows of state.db, written with what they tell of, until they have arrived.

A hub that was killed goes on with what is left. Nobody who puts something in waits for a courier.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

from reconciler.alerts.courier import Courier
from reconciler.core.condition import Finding
from reconciler.errors import StoreError
from reconciler.store import records
from reconciler.store.records import NoticeRecord
from reconciler.store.store import Store


class Outbox:
    """Of one hub. Only its main thread writes; couriers call `arrived`."""

    def __init__(self, store: Store) -> None:
        """Raises StoreError."""
        self._store = store
        self._couriers: Mapping[str, Courier] = {}
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
        self.send(row for row in self._left if row.sink in couriers)

    def close(self, drain_s: float = 0.0) -> None:
        """Deliver nothing more, once couriers have had `drain_s` for what waits. The next hub delivers what is left."""
        until = time.monotonic() + drain_s
        for courier in self._couriers.values():
            courier.drain(max(0.0, until - time.monotonic()))
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

    def address(self, sink: str, document: str) -> Sequence[NoticeRecord]:
        """The row for a sink; none where nobody brings anything there."""
        if sink not in self._couriers:
            return ()
        self._seq += 1
        return (NoticeRecord(seq=self._seq, sink=sink, document=document),)

    def keep(self, rows: Sequence[NoticeRecord]) -> None:
        """Write them down, in the caller's transaction. Raises StoreError."""
        records.put_notices(self._store, rows)

    def send(self, rows: Iterable[NoticeRecord]) -> None:
        """Once they are durable: have them delivered."""
        for row in rows:
            self._couriers[row.sink].offer(row.seq, row.document)

    def send_unkept(self, rows: Iterable[NoticeRecord]) -> None:
        """Have delivered what cannot be written down."""
        for row in rows:
            self._couriers[row.sink].offer(None, row.document)
