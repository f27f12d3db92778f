"""usage.db: a row for each request that a provider was asked, or that policy denied; with the verdict in it.

Rows come in; they are on disk within moments. Denials of one second that are alike are one row with their number.

The egress process is its only writer; anybody may read it. A row is written after its answer, by a thread, many in one
transaction: a crash loses the last moments at most, and a full disk holds nobody up.
"""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from reconciler.egress.budget import Spent
from reconciler.errors import StoreError

FILE_NAME = "usage.db"
DAY_S = 86400
KEPT_S = 90 * DAY_S
_MOST_WAITING = 100_000

_LOG = logging.getLogger("reconciler.egress")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, agent TEXT NOT NULL, instance TEXT NOT NULL, run TEXT, task TEXT,
    provider TEXT NOT NULL, model TEXT NOT NULL, status INTEGER NOT NULL, input INTEGER NOT NULL,
    output INTEGER NOT NULL, cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL, is_estimate INTEGER NOT NULL,
    cost REAL NOT NULL, first_byte_ms REAL, whole_ms REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS usage_time ON usage (time);
CREATE INDEX IF NOT EXISTS usage_run ON usage (run) WHERE run IS NOT NULL;
"""
_ADDED = {
    "denied": "TEXT NOT NULL DEFAULT ''",
    "engine": "TEXT NOT NULL DEFAULT ''",
    "policy_revision": "TEXT NOT NULL DEFAULT ''",
    "cached": "INTEGER NOT NULL DEFAULT 0",
    "count": "INTEGER NOT NULL DEFAULT 1",
}
"""Columns that files of earlier releases have not."""

_SUMS = "count(*), coalesce(sum(input + output + cache_read + cache_write), 0), coalesce(sum(cost), 0)"


class Row(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request. `time` is wall clock in epoch seconds; `status` 0 where the provider gave no answer.

    `denied` is the reason of policy, and the provider was not asked then; `count` says of how many requests.
    """

    time: float
    agent: str
    instance: str
    run: str | None
    task: str | None
    provider: str
    model: str
    status: int
    input: int
    output: int
    cache_read: int
    cache_write: int
    is_estimate: bool
    cost: float
    first_byte_ms: float | None
    whole_ms: float
    denied: str = ""
    engine: str = ""
    policy_revision: str = ""
    cached: bool = False
    count: int = 1


_COLUMNS = Row.__struct_fields__
_INSERT = f"INSERT INTO usage ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - names


class Ledger:
    """Opens or makes the file. Raises StoreError."""

    def __init__(self, data: Path, *, busy_s: float = 5.0) -> None:
        """`busy_s` is how long a writing waits for somebody else's."""
        self._path = data / FILE_NAME
        try:
            self._path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                self._path, timeout=busy_s, check_same_thread=False, isolation_level=None
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(_SCHEMA)
            _add_columns(self._connection)
            self._reader = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"opening {self._path}") from error
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._waiting: list[Row] = []
        self._denials: dict[tuple[object, ...], Row] = {}
        self._is_writing = False
        self.fault = ""

    def add(self, row: Row) -> None:
        """To be written soon. Rows are dropped where none could be written for long."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(row)
        self.flush()

    def add_denial(self, row: Row) -> None:
        """To be written with the next `settle_denials`, together with others that are alike."""
        key = (row.instance, row.run, row.provider, row.model, row.denied, row.engine, row.policy_revision)
        before = self._denials.get(key)
        self._denials[key] = row if before is None else msgspec.structs.replace(before, count=before.count + 1)

    def settle_denials(self) -> None:
        """Write down what was denied since the last call."""
        denials, self._denials = self._denials, {}
        for row in denials.values():
            self.add(row)

    def flush(self) -> None:
        """Begin to write what waits, unless that is under way."""
        if self._waiting and not self._is_writing:
            self._is_writing = True
            self._thread.submit(self._write)

    def sum_day(self, day: int) -> Mapping[str, Spent]:
        """By agent, of one day. Raises StoreError."""
        span = (day * DAY_S, (day + 1) * DAY_S)
        query = f"SELECT agent, {_SUMS} FROM usage WHERE time >= ? AND time < ? AND denied = '' GROUP BY agent"  # noqa: S608 - constants
        return {str(agent): Spent(*sums) for agent, *sums in self._ask(query, span)}

    def sum_run(self, run: str) -> Spent:
        """Of one run so far. Raises StoreError."""
        ((*sums,),) = self._ask(f"SELECT {_SUMS} FROM usage WHERE run = ? AND denied = ''", (run,))  # noqa: S608 - constants
        return Spent(*sums)

    def forget_old(self, wall_s: float) -> None:
        """Rows of long ago go."""
        self._thread.submit(self._delete, wall_s - KEPT_S)

    def close(self) -> None:
        """When all that waits is written."""
        self.settle_denials()
        self._thread.submit(self._write)
        self._thread.shutdown(wait=True)
        self._reader.close()
        self._connection.close()

    def _ask(self, query: str, values: Sequence[object]) -> Sequence[Sequence[Any]]:
        try:
            return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"reading {self._path}") from error

    def _write(self) -> None:
        """In the thread: until nothing waits, or it cannot be written now."""
        try:
            while rows := self._waiting[:]:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(_INSERT, [msgspec.structs.astuple(row) for row in rows])
                self._connection.execute("COMMIT")
                del self._waiting[: len(rows)]
                self.fault = ""
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if not self.fault:
                _LOG.error("usage.db cannot be written: %s", error)
            self.fault = str(error)
        finally:
            self._is_writing = False

    def _delete(self, before_s: float) -> None:
        try:
            self._connection.execute("DELETE FROM usage WHERE time < ?", (before_s,))
        except sqlite3.Error as error:
            _LOG.warning("usage.db: old rows stay: %s", error)


def read_usage(data: Path, since_s: float) -> Sequence[Row]:
    """All rows since a time, oldest first; none where there is no file. Raises StoreError."""
    path = data / FILE_NAME
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            there = _read_columns(connection)
            names = [name for name in _COLUMNS if name in there]
            query = f"SELECT {', '.join(names)} FROM usage WHERE time >= ? ORDER BY seq"  # noqa: S608 - names
            found = connection.execute(query, (since_s,))
            return [msgspec.convert(dict(zip(names, row, strict=True)), Row, strict=False) for row in found]
    except sqlite3.Error as error:
        raise StoreError(f"reading {path}") from error


def day_of(wall_s: float) -> int:
    """The day (UTC), counted from 1970."""
    return int(wall_s // DAY_S)


def _add_columns(connection: sqlite3.Connection) -> None:
    """What a file of an earlier release lacks. Raises sqlite3.Error."""
    there = _read_columns(connection)
    for name, type_ in _ADDED.items():
        if name not in there:
            connection.execute(f"ALTER TABLE usage ADD COLUMN {name} {type_}")


def _read_columns(connection: sqlite3.Connection) -> set[str]:
    return {str(name) for _, name, *_ in connection.execute("PRAGMA table_info(usage)")}
