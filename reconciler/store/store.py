"""The one writer of state.db: opens it, brings it forward, keeps one connection, and gives transactions.

`Store.transaction()` is `BEGIN IMMEDIATE ... COMMIT` with `synchronous=FULL`: what it wrote is durable when it
returns. Questions run inside it or inside `Store.read()`. Errors of SQLite leave as StoreError. SQLModel is imported
when a store is opened, not with this module: it takes longer than many a command.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler.errors import StoreError
from reconciler.store.migrations import FIRST_VERSION, MIGRATIONS, Migration, keep_copy, migrate

if TYPE_CHECKING:
    from sqlmodel import Session

T = TypeVar("T")

FILE_NAME = "state.db"
LITTLE_ROOM = 256 * 1024
_VERSION = "schema_version"
_LOG = logging.getLogger("reconciler.store")


class Store:
    """A handle on one state.db. Safe for threads: one transaction at a time."""

    def __init__(self, path: Path, *, read_only: bool = False, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
        """Open; unless `read_only`, make a missing one and bring an older one forward. Raises StoreError."""
        from sqlalchemy.pool import StaticPool
        from sqlmodel import create_engine

        self.path = path
        self._version = FIRST_VERSION + len(migrations)
        self._lock = threading.RLock()
        self._is_in_transaction = False
        self._session: Session | None = None
        self._writes = 0
        self._remembered_at: tuple[int, int] = (0, 0)
        self._remembered: dict[str, Any] = {}
        with _translated("opening", path):
            if not read_only and not path.exists():
                _make_whole(path, self._version)
            raw = _connect(path, "ro" if read_only else "rw")
        self._file = _identity(path)
        self._connection: Callable[[], sqlite3.Connection] = lambda: raw
        self._engine = create_engine(
            "sqlite+pysqlite://",
            creator=lambda: raw,
            poolclass=StaticPool,
            isolation_level="AUTOCOMMIT",
        )
        try:
            with _translated("opening", path):
                # The first connection of an engine rolls back, which must not be inside a transaction.
                self._engine.connect().close()
                found = self._check_version()
                if found < self._version:
                    self._bring_forward(migrations, found, read_only=read_only)
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the log is folded into the file when it was the last one."""
        with self._lock:
            self._engine.dispose()
            self._connection().close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A durable transaction; nested calls join the outer one. Raises StoreError; nothing is kept then."""
        with self._lock:
            if self._is_in_transaction:
                yield
                return
            self._check_still_there()
            connection = self._connection()
            with _translated("writing", self.path):
                connection.execute("BEGIN IMMEDIATE")
                self._is_in_transaction = True
                try:
                    yield
                    self._flush()
                    connection.execute("COMMIT")
                except BaseException:
                    # SQLite has rolled back by itself when the disk is full; what went wrong matters, not that.
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                    raise
                finally:
                    session, self._session, self._is_in_transaction = self._session, None, False
                    self._writes += 1
                    if session is not None and session.in_transaction():
                        session.close()

    @contextmanager
    def read(self) -> "Iterator[Session]":
        """Questions; inside a transaction also changes, which are of it. Raises StoreError."""
        from sqlmodel import Session

        with self._lock:
            if self._is_in_transaction:
                if self._session is None:
                    self._session = Session(self._engine, expire_on_commit=False)
                yield self._session
                return
            with _translated("reading", self.path), Session(self._engine) as session:
                yield session

    def rows(self, query: str, **values: object) -> list[Any]:
        """The answer to a question in SQL, as tuples; quicker than `read` where no table class is needed.

        Raises StoreError.
        """
        with self._lock:
            self._flush()
            with _translated("reading", self.path):
                return self._connection().execute(query, values).fetchall()

    def write(self, statement: str, rows: Sequence[Mapping[str, object]]) -> None:
        """One statement in SQL for each of these rows, in the caller's transaction or in one of its own.

        Raises StoreError.
        """
        with self.transaction(), _translated("writing", self.path):
            self._flush()
            self._connection().executemany(statement, rows)

    def remembered(self, key: str, ask: Callable[[], T]) -> T:
        """The answer to `ask` as of now; asked again only after a write, by us or by anybody else."""
        with self._lock:
            if self._is_in_transaction:
                return ask()
            self._check_still_there()
            with _translated("reading", self.path):
                version = (self._writes, self._connection().execute("PRAGMA data_version").fetchone()[0])
            if version != self._remembered_at:
                self._remembered_at, self._remembered = version, {}
            if key not in self._remembered:
                self._remembered[key] = ask()
            answer: T = self._remembered[key]
            return answer

    def get_meta(self, key: str) -> str | None:
        found = self.rows("SELECT value FROM meta WHERE key = :key", key=key)
        return str(found[0][0]) if found else None

    def set_meta(self, key: str, value: str) -> None:
        statement = "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT DO UPDATE SET value = :value"
        self.write(statement, [{"key": key, "value": value}])

    def _flush(self) -> None:
        """What the session of this transaction, where it needed one, has not sent yet."""
        if self._session is not None:
            self._session.flush()

    def _check_still_there(self) -> None:
        """What is written to a file that was removed is lost with this process, so it is not written at all."""
        if _identity(self.path) != self._file:
            raise StoreError(
                f"{self.path} was removed or replaced while it was in use; stop this process, restore the data "
                "directory from its backup, and start again"
            )

    def _check_version(self) -> int:
        """The schema of the file, which this release knows. Raises StoreError."""
        found = self.get_meta(_VERSION) or str(FIRST_VERSION)
        if not found.isdecimal() or int(found) < FIRST_VERSION:
            raise StoreError(f"{self.path} has the schema version {found!r}, which no release wrote; restore a backup")
        if int(found) > self._version:
            raise StoreError(
                f"{self.path} was written by a newer release (schema {found}, this one knows {self._version}); "
                "start that release, or restore a backup"
            )
        return int(found)

    def _bring_forward(self, migrations: tuple[Migration, ...], found: int, *, read_only: bool) -> None:
        if read_only:
            raise StoreError(
                f"{self.path} was written by an older release (schema {found}, this one has {self._version}); "
                "start the hub first with `reconciler run`, which brings it forward"
            )
        with self.transaction(), self.read() as session:
            kept = keep_copy(self.path, found)
            migrate(session.connection(), migrations[found - FIRST_VERSION :])
            self.set_meta(_VERSION, str(self._version))
        _LOG.warning(
            "%s was brought from schema %d to %d; the old one is kept as %s", self.path, found, self._version, kept.name
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make_whole(path: Path, version: int) -> None:
    """Put an empty state.db with all tables in place, at once: who reads meanwhile finds none yet. Raises OSError."""
    from sqlmodel import Session, SQLModel, create_engine

    from reconciler.store.tables import MetaRow

    draft = path.with_name(f".{path.name}.new")
    # Prompts and results will be in it: the log and the shared memory beside it take its mode.
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    engine = create_engine("sqlite+pysqlite://", creator=lambda: sqlite3.connect(draft))
    try:
        with Session(engine) as session:
            connection = session.connection()
            connection.exec_driver_sql("PRAGMA journal_mode=OFF")
            SQLModel.metadata.create_all(connection)
            session.add(MetaRow(key=_VERSION, value=str(version)))
            session.commit()
    finally:
        engine.dispose()
    draft.rename(path)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, check_same_thread=False, timeout=5.0)
    connection.isolation_level = None
    if mode != "ro":
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=5000")
    return connection


@contextmanager
def _translated(doing: str, path: Path) -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError, OverflowError, UnicodeError) as exc:
        original: Any = getattr(exc, "orig", None) or exc
        raise StoreError(f"{doing} {path} failed: {original}{_hint(path, original)}") from original


def _hint(path: Path, error: object) -> str:
    """What most often is the reason, where it can be seen, and what to do."""
    if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return "; restore it from a backup (`reconciler restore`)"
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return ""
    return "; the disk is full, free some space" if room.f_bavail * room.f_frsize < LITTLE_ROOM else ""
