"""Step 5: the message log and hub_inbox, written by one thread that commits all that queued up meanwhile.

`record` and `count` are called on the event loop; a future tells when the row is on disk. A full disk costs a reserve
file first, and is then answered with False until rows can be written again.
"""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from reconciler.router.reserve import Reserve
from reconciler.router.traffic import InboxEntry, Row, TrafficDatabase, is_disk_error

_LARGEST_BATCH = 512
_MAINTENANCE_S = 2.0
_DELETING_S = 0.1

# Besides a failing disk: a value that SQLite cannot hold. Whatever it is, nobody may wait for ever.
_NOT_WRITTEN = (sqlite3.Error, ValueError, OverflowError)

_LOG = logging.getLogger("reconciler.router.log")


class _Item(msgspec.Struct):
    row: Row
    inbox: InboxEntry | None = None
    recorded: asyncio.Future[bool] | None = None


class TrafficLog:
    """The only writer of traffic.db. `on_change` is called on the loop when writing begins or ceases to fail.

    `retention_s` and `inbox_kept_s` say how long rows stay, the latter from their arrival and only up to
    `inbox_cursor`.
    """

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, on_change: Callable[[], None]) -> None:
        """Opens or makes `folder`/traffic.db. Raises StoreError."""
        self.retention_s = 30 * 86400.0
        self.inbox_kept_s = 600.0
        self.inbox_cursor = 0
        self.is_unavailable = False
        self._loop = loop
        self._on_change = on_change
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._counts: dict[tuple[str, str, str, str], int] = {}
        self._database = TrafficDatabase(folder / "traffic.db")
        self._reserve = Reserve(folder / "traffic.reserve")
        self._thread = threading.Thread(target=self._run, name="traffic-log")
        self._thread.start()

    @property
    def inbox_seq(self) -> int:
        """The seq of the last entry of hub_inbox."""
        return self._database.inbox_seq

    @property
    def is_reserve_used(self) -> bool:
        return self._reserve.is_used

    def record(self, row: Row, inbox: InboxEntry | None = None) -> asyncio.Future[bool]:
        """Queue a row and, in one transaction with it, an inbox entry. True means on disk, False not written."""
        recorded: asyncio.Future[bool] = self._loop.create_future()
        self._queue.put(_Item(row, inbox, recorded))
        return recorded

    def note(self, row: Row) -> None:
        """Queue a row that nothing waits for."""
        self._queue.put(_Item(row))

    def count(self, instance: str, agent: str, code: str, step: str) -> None:
        """Count a verdict; each `flush_counts` writes one row per instance and code."""
        key = (instance, agent, code, step)
        self._counts[key] = self._counts.get(key, 0) + 1

    def flush_counts(self) -> None:
        """To be called once per second, and at the end."""
        counts, self._counts = self._counts, {}
        now = time.time()
        for (instance, agent, code, step), n in counts.items():
            row = Row(
                time=now,
                instance=instance,
                agent=agent,
                verdict="deny",
                code=code,
                step=step,
                count=n,
            )
            if code == "duplicate":
                row.verdict = "allow"
            self.note(row)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self.flush_counts()
        self._queue.put(None)
        self._thread.join()

    # --- the writer's thread ---

    def _run(self) -> None:
        next_maintenance = time.monotonic() + _MAINTENANCE_S
        is_open = True
        while is_open:
            batch, is_open = self._take_batch(max(0.0, next_maintenance - time.monotonic()))
            if batch:
                self._settle(batch, is_recorded=self._write(batch))
            if is_open and time.monotonic() >= next_maintenance:
                self._maintain()
                next_maintenance = time.monotonic() + _MAINTENANCE_S
        self._database.close()

    def _take_batch(self, timeout_s: float) -> tuple[list[_Item], bool]:
        """All that is queued, once there is something; False when nothing will come any more."""
        try:
            item = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return [], True
        batch: list[_Item] = []
        while item is not None:
            batch.append(item)
            if len(batch) >= _LARGEST_BATCH or not self._queue.qsize():
                return batch, True
            item = self._queue.get()
        return batch, False

    def _write(self, batch: Sequence[_Item]) -> bool:
        rows = [item.row for item in batch]
        entries = [item.inbox for item in batch if item.inbox is not None]
        try:
            self._database.commit(rows, entries)
        except _NOT_WRITTEN as error:
            if not (is_disk_error(error) and self._reserve.release()):
                return self._report(error)
            self._call(self._on_change)
            try:
                self._database.commit(rows, entries)
            except _NOT_WRITTEN as again:
                return self._report(again)
        return self._report(None)

    def _report(self, error: Exception | None) -> bool:
        is_unavailable = error is not None
        if is_unavailable != self.is_unavailable:
            self.is_unavailable = is_unavailable
            if is_unavailable:
                _LOG.error("the message log cannot be written, messages are refused: %s", error)
            else:
                _LOG.warning("the message log can be written again")
            self._call(self._on_change)
        return not is_unavailable

    def _settle(self, batch: Sequence[_Item], *, is_recorded: bool) -> None:
        waiting = [item.recorded for item in batch if item.recorded is not None]
        if waiting:
            self._call(lambda: _resolve(waiting, is_recorded))

    def _call(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(callback)

    def _maintain(self) -> None:
        """Delete what is older than the retention, and inbox entries that were taken in a while ago."""
        now = time.time()
        until = time.monotonic() + _DELETING_S
        try:
            self._database.delete_inbox(now - self.inbox_kept_s, self.inbox_cursor)
            while self._database.delete_log(now - self.retention_s) and time.monotonic() < until:
                pass
        except sqlite3.Error as error:
            _LOG.warning("deleting old rows of the message log: %s", error)
        if self._reserve.is_used:
            self._reserve.fill()


def _resolve(waiting: Sequence[asyncio.Future[bool]], is_recorded: bool) -> None:
    for recorded in waiting:
        if not recorded.done():
            recorded.set_result(is_recorded)
