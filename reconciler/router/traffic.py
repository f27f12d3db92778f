"""traffic.db: its tables, and the few statements on them. Rows go in, many in one transaction.

WAL with synchronous=FULL: what `commit` has written survives a power cut. Nothing is moved from the WAL into the file
but by `checkpoint` and `move_rest`, since that takes longer than many commits.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from reconciler.crashpoint import point
from reconciler.errors import StoreError

VERSION = 2
_DELETED_AT_ONCE = 1000

_SCHEMA = """
CREATE TABLE message_log (
    seq INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    instance TEXT NOT NULL,
    agent TEXT NOT NULL,
    verdict TEXT NOT NULL,
    code TEXT, step TEXT, reason TEXT,
    msg_id TEXT, type TEXT, pattern TEXT, recipient TEXT, delivered TEXT,
    correlation_id TEXT, sender_seq INTEGER,
    engine TEXT, policy_revision TEXT, cached INTEGER, config_digest TEXT,
    size INTEGER, payload TEXT, payload_sha256 TEXT, traceparent TEXT,
    count INTEGER NOT NULL,
    decided_at REAL);
CREATE TABLE hub_inbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    instance TEXT NOT NULL,
    agent TEXT NOT NULL,
    type TEXT NOT NULL,
    msg_id TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (instance, msg_id));
"""

_STEPS = {2: "ALTER TABLE message_log ADD COLUMN decided_at REAL;"}
"""What leads to each format from the one before; `_SCHEMA` is the newest."""


class Row(msgspec.Struct, kw_only=True, array_like=True, gc=False):
    """One verdict, in the order of the columns. `time` and `decided_at` are wall clock.

    `verdict` is `allow`, `deny`, or `expired` for a message that nobody took in time. `recipient`
    is an agent, `agent/instance`, `hub`, or `topic:` and a topic; `delivered` names instances, a
    space between. `count` is more than 1 where denials were counted into one row. `decided_at` is
    when it was decided, which for a remembered answer of policy is before `time`; None in rows of
    an older release.
    """

    time: float
    instance: str
    agent: str
    verdict: Literal["allow", "deny", "expired"]
    code: str | None = None
    step: str | None = None
    reason: str | None = None
    msg_id: str | None = None
    type: str | None = None
    pattern: str | None = None
    recipient: str | None = None
    delivered: str | None = None
    correlation_id: str | None = None
    sender_seq: int | None = None
    engine: str | None = None
    policy_revision: str | None = None
    cached: bool | None = None
    config_digest: str | None = None
    size: int | None = None
    payload: str | None = None
    payload_sha256: str | None = None
    traceparent: str | None = None
    count: int = 1
    decided_at: float | None = None


class InboxEntry(msgspec.Struct, kw_only=True, array_like=True, gc=False):
    """One message to the hub; `body` is its payload as JSON.

    A second one with the same instance and id is dropped, as long as the first is kept.
    """

    time: float
    instance: str
    agent: str
    type: str
    msg_id: str
    body: str


_INSERT = f"INSERT INTO message_log VALUES (NULL,{','.join('?' * len(Row.__struct_fields__))})"  # noqa: S608 - no input
_INSERT_INBOX = "INSERT OR IGNORE INTO hub_inbox VALUES (NULL,?,?,?,?,?,?)"
_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
_OLD_LOG = "SELECT max(seq) FROM (SELECT seq, time FROM message_log ORDER BY seq LIMIT ?) WHERE time < ?"
_OLD_INBOX = "SELECT max(seq) FROM (SELECT seq, time FROM hub_inbox WHERE seq <= ? ORDER BY seq LIMIT ?) WHERE time < ?"


class TrafficDatabase:
    """An open traffic.db, for one thread at a time. All methods raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        """Opens or makes it. Raises StoreError."""
        try:
            self._connection = _open(path)
            self.inbox_seq = self._read_inbox_seq()
        except sqlite3.Error as error:
            raise StoreError(f"opening the message log {path}") from error

    def commit(self, rows: Sequence[Row], entries: Sequence[InboxEntry]) -> None:
        """Write all in one transaction, or nothing."""
        point("router.record.before")
        self._commit(rows, entries)
        point("router.record.after")

    def delete_log(self, before: float) -> bool:
        """Some of the rows older than `before` (wall clock); True when there may be more. Rows are in order of time."""
        last = self._connection.execute(_OLD_LOG, (_DELETED_AT_ONCE, before)).fetchone()[0]
        if last is None:
            return False
        return self._connection.execute("DELETE FROM message_log WHERE seq <= ?", (last,)).rowcount > 0

    def delete_inbox(self, before: float, upto_seq: int) -> None:
        """Some of the entries older than `before` with a seq up to `upto_seq`."""
        last = self._connection.execute(_OLD_INBOX, (upto_seq, _DELETED_AT_ONCE, before)).fetchone()[0]
        if last is not None:
            self._connection.execute("DELETE FROM hub_inbox WHERE seq <= ?", (last,))

    def move_rest(self) -> None:
        """Move what a `checkpoint` has left in the WAL, so that the next commit begins it anew."""
        self._connection.execute(_CHECKPOINT)

    def close(self) -> None:
        """Where nobody reads, nothing stays in the WAL."""
        self._connection.close()

    def _commit(self, rows: Sequence[Row], entries: Sequence[InboxEntry]) -> None:
        execute = self._connection.execute
        inbox_seq = self.inbox_seq
        execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(_INSERT, map(msgspec.structs.astuple, rows))
            for entry in entries:
                cursor = execute(_INSERT_INBOX, msgspec.structs.astuple(entry))
                if cursor.rowcount == 1 and cursor.lastrowid is not None:
                    inbox_seq = cursor.lastrowid
            execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise
        self.inbox_seq = inbox_seq

    def _read_inbox_seq(self) -> int:
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name='hub_inbox'").fetchone()
        return int(row[0]) if row else 0


def checkpoint(path: Path) -> None:
    """Move what is in the WAL by now into the file; commits go on meanwhile, where this is another thread.

    Raises sqlite3.Error.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(_CHECKPOINT)


def is_disk_error(error: Exception) -> bool:
    """Whether room on the disk may help; the low byte of SQLite's code is its kind."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    )


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Settings, and tables of the newest format."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=2000")
    connection.execute("PRAGMA journal_size_limit=67108864")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreError(f"{path} was written by a newer release: format {version}, not {VERSION}")
    if version < VERSION:
        steps = "".join(_STEPS[n] for n in range(version + 1, VERSION + 1)) if version else _SCHEMA
        connection.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version={VERSION};COMMIT;")
