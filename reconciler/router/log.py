"""Step 5: the message log and hub_inbox, as the event loop sees them: a ticket per row, settled when it is on disk.

Rows go to the writer process many at a time (`writer.py`): what came up while it was at the batch before. A full disk
costs a reserve file first, and is then answered with False until rows can be written again.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from reconciler.router.eager import Ticket
from reconciler.router.traffic import InboxEntry, Row
from reconciler.router.writer import READ_BYTES, Batch, Keep, Progress, Writer, take_frame, to_frame, wait_for_end

_LARGEST_BATCH = 512
_LARGEST_BATCH_BYTES = 4 * 2**20
_UNDER_WAY = 2
_WORTH_A_SECOND = 32
_WORTH_A_BATCH = 16
_FEW_ROWS = 4
_GATHERING_S = 0.001

_LOG = logging.getLogger("reconciler.router.log")


class _Item(msgspec.Struct, gc=False):
    row: Row
    inbox: InboxEntry | None = None
    recorded: Ticket[bool] | None = None


class TrafficLog:
    """What the router writes to traffic.db, all through one writer.

    `on_change` is called when writing begins or ceases to fail, or to use the reserve; `on_lost` when the writer has
    ended by itself, after which nothing can be recorded. `retention_s` and `inbox_kept_s` say how long rows stay, the
    latter from their arrival and only up to `inbox_cursor`.
    """

    def __init__(
        self,
        writer: Writer,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        kept = Keep()
        self.retention_s = kept.retention_s
        self.inbox_kept_s = kept.inbox_kept_s
        self.inbox_cursor = kept.inbox_cursor
        self.inbox_seq = writer.first.inbox_seq
        self.is_unavailable = False
        self.is_reserve_used = writer.first.is_reserve_used
        self.is_lost = False
        self._loop = loop
        self._on_change = on_change
        self._on_lost = on_lost
        self._pid = writer.pid
        self._link = writer.link
        self._told = kept
        self._collected: list[_Item] = []
        self._under_way: deque[list[Ticket[bool]]] = deque()
        self._last_rows = 0
        self._is_due = False
        self._unsent = b""
        self._is_full = False
        self._received = bytearray()
        self._counts: dict[tuple[str, str, str, str], int] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Progress)
        self._link.setblocking(False)
        loop.add_reader(self._link, self._read)

    def record(self, row: Row, inbox: InboxEntry | None = None) -> Ticket[bool]:
        """Queue a row and, in one transaction with it, an inbox entry. True means on disk, False not written."""
        recorded: Ticket[bool] = Ticket(self._loop)
        self._collect(_Item(row, inbox, recorded))
        return recorded

    def note(self, row: Row) -> None:
        """Queue a row that nothing waits for."""
        self._collect(_Item(row))

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
                decided_at=now,
            )
            if code == "duplicate":
                row.verdict = "allow"
            self.note(row)
        if self._keep != self._told and not self._collected and not self.is_lost:
            self._send([])

    def close(self) -> None:
        """Write what is queued, and let the writer end."""
        self.flush_counts()
        self._hand_over()
        if not self.is_lost:
            self._link.setblocking(True)
        while self._under_way:
            self._flush()
            self._read()
        if self.is_lost:
            return
        self._flush()
        self._loop.remove_reader(self._link)
        self._loop.remove_writer(self._link)
        self._link.close()
        wait_for_end(self._pid)

    def _collect(self, item: _Item) -> None:
        """What one turn of the loop made goes together, if the writer is free."""
        self._collected.append(item)
        if self._is_due or not self._is_writer_free():
            return
        if self._is_worth_a_batch():
            self._is_due = True
            self._loop.call_soon(self._hand_over)
        else:
            self._gather()

    # --- to the writer ---

    def _is_worth_a_batch(self) -> bool:
        """Each batch costs as much as several rows, here, at the writer, and in polls that it ends.

        So where rows come in numbers a small batch waits for more; one row after the other does not.
        """
        return self._last_rows < _FEW_ROWS or len(self._collected) >= _WORTH_A_BATCH

    def _gather(self) -> None:
        self._is_due = True
        self._loop.call_later(_GATHERING_S, self._hand_over)

    def _hand_over(self) -> None:
        self._is_due = False
        if self.is_lost:
            self._refuse()
        while self._collected and self._is_writer_free():
            self._send(self._take())

    def _is_writer_free(self) -> bool:
        """A second batch waits for it beside the first only where it is large: each costs as much as several rows."""
        under_way = len(self._under_way)
        return not under_way or (under_way < _UNDER_WAY and len(self._collected) >= _WORTH_A_SECOND)

    def _take(self) -> list[_Item]:
        """The next batch, of bounded size."""
        size_bytes = count = 0
        for item in self._collected[:_LARGEST_BATCH]:
            count += 1
            size_bytes += item.row.size or 0
            if size_bytes > _LARGEST_BATCH_BYTES:
                break
        batch, self._collected = self._collected[:count], self._collected[count:]
        self._last_rows = count
        return batch

    def _send(self, items: Sequence[_Item]) -> None:
        waiting = [item.recorded for item in items if item.recorded is not None]
        entries = [item.inbox for item in items if item.inbox is not None]
        keep = self._keep
        try:
            frame = to_frame(self._encoder.encode(Batch([item.row for item in items], entries, keep)))
        except (ValueError, OverflowError) as error:  # a text or number that has no form
            _LOG.error("%d rows cannot be written: %s", len(items), error)
            _settle(waiting, is_recorded=False)
            return
        self._told = keep
        if items:
            self._under_way.append(waiting)
        self._unsent += frame
        self._write()

    @property
    def _keep(self) -> Keep:
        return Keep(self.retention_s, self.inbox_kept_s, self.inbox_cursor)

    def _write(self) -> None:
        """What the socket takes now; the rest when it takes more."""
        try:
            self._unsent = self._unsent[self._link.send(self._unsent) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            self._unsent = b""  # `_read` finds the end
        if bool(self._unsent) is not self._is_full:
            self._is_full = not self._is_full
            if self._is_full:
                self._loop.add_writer(self._link, self._write)
            else:
                self._loop.remove_writer(self._link)

    def _flush(self) -> None:
        """All of it, on a socket that blocks."""
        with contextlib.suppress(ConnectionError):  # `_read` finds the end
            self._link.sendall(self._unsent)
        self._unsent = b""

    # --- from the writer ---

    def _read(self) -> None:
        try:
            data = self._link.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._lose()
            return
        self._received += data
        while (frame := take_frame(self._received)) is not None:
            self._note_progress(self._decoder.decode(frame))

    def _note_progress(self, progress: Progress) -> None:
        self.inbox_seq = progress.inbox_seq
        state = (not progress.is_recorded, progress.is_reserve_used)
        if state != (self.is_unavailable, self.is_reserve_used):
            self.is_unavailable, self.is_reserve_used = state
            self._on_change()
        if progress.is_answer:
            waiting = self._under_way.popleft()
            if self._is_worth_a_batch():
                self._hand_over()  # before the answers are worked out, so that the writer is busy meanwhile
            elif self._collected and not self._is_due:
                self._gather()
            _settle(waiting, is_recorded=progress.is_recorded)

    def _lose(self) -> None:
        """The writer is gone, and with it whatever it was at."""
        self._loop.remove_reader(self._link)
        self._loop.remove_writer(self._link)
        self._link.close()
        self.is_lost = self.is_unavailable = True
        _LOG.error("the writer of the message log is gone, and the router ends: %s", wait_for_end(self._pid))
        for waiting in self._under_way:
            _settle(waiting, is_recorded=False)
        self._under_way.clear()
        self._refuse()
        self._on_lost()

    def _refuse(self) -> None:
        items, self._collected = self._collected, []
        _settle([item.recorded for item in items if item.recorded is not None], is_recorded=False)


def _settle(waiting: Sequence[Ticket[bool]], *, is_recorded: bool) -> None:
    for recorded in waiting:
        recorded.settle(is_recorded)
