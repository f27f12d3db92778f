"""The log writer: a process of the router's own, which commits batches of rows to traffic.db and answers each.

It is forked from the router before that has a thread or an event loop, and hears of it on one socket: frames of
msgpack, `Batch` one way and `Progress` the other. A batch is answered when it is on disk, or cannot be put there. All
else (deleting old rows, emptying the WAL, filling the reserve) happens between batches, in small steps. It ends when
the router closes the socket, or ends, after what it was sent; no signal but SIGKILL ends it.
"""

import contextlib
import fcntl
import gc
import logging
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from reconciler.errors import LockedError, ReconcilerError, StoreError
from reconciler.router.reserve import Reserve
from reconciler.router.traffic import InboxEntry, Row, TrafficDatabase, checkpoint, is_disk_error

READ_BYTES = 64 * 1024
PROCESS_NAME = "traffic-log"
_HEAD = 4
_LOCK_S = 2.0
_COLLECT_AFTER = 20_000
_MAINTENANCE_S = 2.0
_DELETING_S = 0.05
_CHECKPOINT_BYTES = 8 * 2**20
_COMMIT_BYTES = 3 * 4096
_DELETION_BYTES = 2**20

# Besides a failing disk: a value that SQLite cannot hold. Whatever it is, nobody may wait for ever.
_NOT_WRITTEN = (sqlite3.Error, ValueError, OverflowError)

_LOG = logging.getLogger("reconciler.router.log")


class Keep(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How long rows stay, and inbox entries from their arrival; the latter only up to `inbox_cursor`."""

    retention_s: float = 30 * 86400.0
    inbox_kept_s: float = 600.0
    inbox_cursor: int = 0


class Batch(msgspec.Struct, array_like=True, gc=False):
    """What one transaction writes."""

    rows: Sequence[Row]
    entries: Sequence[InboxEntry]
    keep: Keep


class Progress(msgspec.Struct, array_like=True, gc=False):
    """Where the log is. `is_answer` says that a batch is done, `is_recorded` that it, or the one before, is on disk.

    `inbox_seq` is the seq of the last entry of hub_inbox; `fault` is why there is no log at all, in the first frame.
    """

    is_answer: bool
    is_recorded: bool
    is_reserve_used: bool
    inbox_seq: int
    fault: str = ""


class Writer(msgspec.Struct, frozen=True):
    """A writer process that is ready, and the router's end of the socket."""

    pid: int
    link: socket.socket
    first: Progress


def start_writer(folder: Path) -> Writer:
    """Fork the writer of `folder`/traffic.db, which is made where it is missing.

    To be called while there is no other thread. Raises StoreError, which tells why not.
    """
    ours, theirs = socket.socketpair()
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_writer(folder, theirs)
    theirs.close()
    frames = bytearray()
    decoder = msgspec.msgpack.Decoder(Progress)
    while (frame := take_frame(frames)) is None:
        data = ours.recv(READ_BYTES)
        if not data:
            raise StoreError(f"starting the writer of {folder / 'traffic.db'}: {wait_for_end(pid)}")
        frames += data
    first = decoder.decode(frame)
    if first.fault:
        ours.close()
        wait_for_end(pid)
        raise StoreError(first.fault)
    return Writer(pid, ours, first)


def wait_for_end(pid: int) -> str:
    """How the writer ended, once it has."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"


def to_frame(content: bytes) -> bytes:
    """`content` after its length."""
    return len(content).to_bytes(_HEAD, "big") + content


def take_frame(buffer: bytearray) -> bytes | None:
    """The content of the first frame, which is taken off; None where it is not whole."""
    end = _HEAD + int.from_bytes(buffer[:_HEAD], "big")
    if len(buffer) < max(end, _HEAD):
        return None
    content = bytes(memoryview(buffer)[_HEAD:end])
    del buffer[:end]
    return content


# --- the writer process ---


def _be_writer(folder: Path, link: socket.socket) -> NoReturn:
    """All of the child's life. Nothing of what it was forked from may run in it."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        gc.set_threshold(_COLLECT_AFTER, 20, 20)
        with contextlib.suppress(OSError):  # only for who looks at the list of processes
            Path("/proc/self/comm").write_text(PROCESS_NAME, encoding="ascii")
        code = _serve(folder, link)
    except BaseException:
        _LOG.exception("the writer of the message log failed")
        raise
    finally:
        os._exit(code)


def _serve(folder: Path, link: socket.socket) -> int:
    """The exit code. A file that cannot be used is told to the router."""
    try:
        with _lock(folder):
            _Scribe(folder, link).run()
    except ReconcilerError as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        fault = Progress(False, False, False, 0, f"{error}{cause}")
        link.sendall(to_frame(msgspec.msgpack.encode(fault)))
        return 1
    return 0


class _Scribe:
    """traffic.db and the reserve, in the process that owns them."""

    def __init__(self, folder: Path, link: socket.socket) -> None:
        """Raises StoreError."""
        self._path = folder / "traffic.db"
        self._link = link
        self._database = TrafficDatabase(self._path)
        self._file = os.open(self._path, os.O_RDWR)  # never closed: that would drop SQLite's locks on it
        self._reserve = Reserve(folder / "traffic.reserve")
        self._keep = Keep()
        self._is_recorded = True
        self._received = bytearray()
        self._decoder = msgspec.msgpack.Decoder(Batch)
        self._encoder = msgspec.msgpack.Encoder()
        self._next_maintenance = time.monotonic() + _MAINTENANCE_S
        self._wal_bytes = 0
        self._checkpoint: threading.Thread | None = None

    def run(self) -> None:
        """Until the router is gone, and all that it had sent is written."""
        self._tell(is_answer=False)
        while True:
            frame = self._read()
            if frame is None:
                break
            if frame:
                self._take(self._decoder.decode(frame), len(frame))
            self._tidy()
        if self._checkpoint is not None:
            self._checkpoint.join()
        self._database.close()

    def _read(self) -> bytes | None:
        """The next frame; empty when it is time for maintenance before one comes, None at the end."""
        while (frame := take_frame(self._received)) is None:
            self._link.settimeout(max(0.001, self._next_maintenance - time.monotonic()))
            try:
                data = self._link.recv(READ_BYTES)
            except TimeoutError:
                return b""
            except ConnectionError:
                return None
            if not data:
                return None
            self._received += data
        return frame

    def _take(self, batch: Batch, size_bytes: int) -> None:
        self._keep = batch.keep
        if not batch.rows:
            return
        self._write(batch)
        self._tell(is_answer=True)
        self._wal_bytes += size_bytes + _COMMIT_BYTES

    def _write(self, batch: Batch) -> None:
        try:
            self._database.commit(batch.rows, batch.entries)
        except _NOT_WRITTEN as error:
            if not (is_disk_error(error) and self._reserve.release()):
                self._report(error)
                return
            try:
                self._database.commit(batch.rows, batch.entries)
            except _NOT_WRITTEN as again:
                self._report(again)
                return
        self._report(None)

    def _report(self, error: Exception | None) -> None:
        is_recorded = error is None
        if is_recorded != self._is_recorded:
            self._is_recorded = is_recorded
            if is_recorded:
                _LOG.warning("the message log can be written again")
            else:
                _LOG.error("the message log cannot be written, messages are refused: %s", error)

    def _tell(self, *, is_answer: bool) -> None:
        progress = Progress(is_answer, self._is_recorded, self._reserve.is_used, self._database.inbox_seq)
        self._link.settimeout(None)
        with contextlib.suppress(ConnectionError):  # `_read` comes to the end
            self._link.sendall(to_frame(self._encoder.encode(progress)))

    def _tidy(self) -> None:
        """A step of what is due; the next batch waits for it."""
        if time.monotonic() >= self._next_maintenance:
            is_more = self._delete()
            self._next_maintenance = time.monotonic() + (_DELETING_S if is_more else _MAINTENANCE_S)
            if self._reserve.is_used:
                self._reserve.fill()
                if not self._reserve.is_used:
                    self._tell(is_answer=False)
        if self._checkpoint is not None:
            self._end_checkpoint()
        elif self._wal_bytes >= _CHECKPOINT_BYTES:
            self._wal_bytes = 0
            self._checkpoint = threading.Thread(target=_move, args=(self._path, self._file), name="checkpoint")
            self._checkpoint.start()

    def _delete(self) -> bool:
        """Some rows older than the retention, and inbox entries that were taken in a while ago; True for more."""
        now = time.time()
        try:
            self._database.delete_inbox(now - self._keep.inbox_kept_s, self._keep.inbox_cursor)
            is_more = self._database.delete_log(now - self._keep.retention_s)
        except sqlite3.Error as error:
            _LOG.warning("deleting old rows of the message log: %s", error)
            return False
        self._wal_bytes += _DELETION_BYTES if is_more else 0
        return is_more

    def _end_checkpoint(self) -> None:
        """After one that went beside commits only what these added is left, which is quick to move."""
        assert self._checkpoint is not None
        if self._checkpoint.is_alive():
            return
        self._checkpoint = None
        try:
            self._database.move_rest()
        except sqlite3.Error as error:
            _LOG.warning("emptying the write-ahead log of the message log: %s", error)


def _move(path: Path, file: int) -> None:
    """A thread: all the time is spent in SQLite and the kernel, which leaves the interpreter to the commits.

    What SQLite has moved beside commits it does not sync: the next in their way would have to.
    """
    try:
        checkpoint(path)
        os.fdatasync(file)
    except (sqlite3.Error, OSError) as error:
        _LOG.warning("emptying the write-ahead log of the message log: %s", error)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Raises LockedError while another router has this data directory; one that is ending is waited for."""
    until = time.monotonic() + _LOCK_S
    with open(folder / "traffic.lock", "w", encoding="ascii") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise LockedError(f"another router writes {folder / 'traffic.db'}") from error
                time.sleep(0.01)
            else:
                break
        yield
