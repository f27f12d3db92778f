"""The audit log: append-only rows, each carrying the hash of the one before it.

`append` is the only function that writes rows. The hash is SHA-256 over the previous hash and the length-prefixed
bytes of each column, so that no two rows can be confused whatever their texts contain.
"""

import hashlib
import sqlite3
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from reconciler.errors import StoreError
from reconciler.store.store import Store

if TYPE_CHECKING:
    from reconciler.store.tables import AuditRow

GENESIS = "0" * 64
MOST_FAULTS = 20
_PAGE = 2000
_USUAL_BYTES = 4097


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What is recorded; `seq`, `prev` and `hash` are the log's. `outcome` is `intent`, `applied`, `failed`, `noted`."""

    time: str
    boottime: float
    fleet: str
    revision: str = ""
    actor: str = "hub"
    cause: str = ""
    kind: str = ""
    name: str = ""
    action: str = ""
    before: str = ""
    after: str = ""
    outcome: str = ""
    reason: str = ""
    plan_digest: str = ""
    policy_revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedEntry:
    """An entry as it stands in the log."""

    seq: int
    entry: AuditEntry
    prev: str
    hash: str


COLUMNS = tuple(f.name for f in fields(AuditEntry))


def append(store: Store, entries: Sequence[AuditEntry]) -> None:
    """Append in order, in the caller's transaction or in one of its own. Raises StoreError."""
    if not entries:
        return
    rows: list[dict[str, object]] = []
    with store.transaction():
        seq, prev = newest(store)
        for entry in entries:
            seq += 1
            row_hash = chain_hash(prev, seq, entry)
            rows.append({"seq": seq, "prev": prev, "hash": row_hash, **{c: getattr(entry, c) for c in COLUMNS}})
            prev = row_hash
        columns = ("seq", "prev", "hash", *COLUMNS)
        values = ", ".join(f":{c}" for c in columns)
        store.write(f"INSERT INTO audit ({', '.join(columns)}) VALUES ({values})", rows)  # noqa: S608 - our own columns


def chain_hash(prev: str, seq: int, entry: AuditEntry) -> str:
    """64 hex digits over `prev`, `seq` and every column in the order of `COLUMNS`."""
    return hashlib.sha256(b"".join(map(_frame, (prev, seq, *_values(entry))))).hexdigest()


def read(store: Store, *, after: int = 0, limit: int = 1000) -> list[ChainedEntry]:
    """Rows with seq > `after`, in order."""
    from sqlmodel import col, select

    from reconciler.store.tables import AuditRow

    with store.read() as session:
        rows = session.exec(
            select(AuditRow).where(col(AuditRow.seq) > after).order_by(col(AuditRow.seq)).limit(limit)
        ).all()
        return [_entry(r) for r in rows]


def history(store: Store, kind: str, names: Sequence[str], count: int) -> list[ChainedEntry]:
    """The last `count` rows about these resources of one kind, oldest first."""
    from sqlmodel import col, select

    from reconciler.store.tables import AuditRow

    with store.read() as session:
        rows = session.exec(
            select(AuditRow)
            .where(col(AuditRow.kind) == kind, col(AuditRow.name).in_(names))
            .order_by(col(AuditRow.seq).desc())
            .limit(count)
        ).all()
        return [_entry(r) for r in reversed(rows)]


def tail(store: Store, count: int) -> list[ChainedEntry]:
    """The last `count` rows, oldest first."""
    from sqlmodel import col, select

    from reconciler.store.tables import AuditRow

    with store.read() as session:
        last = session.exec(select(AuditRow.seq).order_by(col(AuditRow.seq).desc()).limit(1)).first() or 0
    return read(store, after=max(0, last - count), limit=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is not as it was written: at which row (0 where it is of none), and a sentence."""

    seq: int = 0
    message: str


@dataclass(slots=True, kw_only=True)
class ChainReading:
    """What reading all rows showed: how many stand before the first fault, and how many there are.

    `faults` are at most `MOST_FAULTS`; `hashes` are those of the rows that were asked for, by seq.
    """

    proven: int = 0
    count: int = 0
    last_seq: int = 0
    faults: list[Fault] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)


def newest(store: Store) -> tuple[int, str]:
    """Seq and hash of the newest row; 0 and `GENESIS` where there is none. Raises StoreError."""
    found = store.rows("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
    return found[0] if found else (0, GENESIS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rows: all that is given must hold. Times are ISO 8601, UTC; `until` is not included.

    `revision` is the beginning of a revision's id; `names` are names of resources of `kind`. In `name` and `action` a
    '*' stands for any text.
    """

    revision: str = ""
    kind: str = ""
    names: tuple[str, ...] = ()
    name: str = ""
    action: str = ""
    since: str = ""
    until: str = ""
    after_seq: int = 0


def choose(store: Store, choice: Choice, limit: int = 0) -> Iterator[ChainedEntry]:
    """Rows in order, a page at a time, so that a long reading holds nothing up; with `limit` the newest so many.

    Raises StoreError.
    """
    if limit:
        yield from reversed(_page(store, choice, limit, newest_first=True))
        return
    while page := _page(store, choice, _PAGE):
        yield from page
        choice = replace(choice, after_seq=page[-1].seq)


def _page(store: Store, choice: Choice, limit: int, *, newest_first: bool = False) -> list[ChainedEntry]:
    from sqlmodel import col, select

    from reconciler.store.tables import AuditRow

    query = select(AuditRow).where(col(AuditRow.seq) > choice.after_seq)
    if choice.revision:
        query = query.where(col(AuditRow.revision).startswith(choice.revision, autoescape=True))
    if choice.kind:
        query = query.where(col(AuditRow.kind) == choice.kind)
    if choice.names:
        query = query.where(col(AuditRow.name).in_(choice.names))
    if choice.name:
        query = query.where(col(AuditRow.name).op("GLOB")(_pattern(choice.name)))
    if choice.action:
        query = query.where(col(AuditRow.action).op("GLOB")(_pattern(choice.action)))
    if choice.since:
        query = query.where(col(AuditRow.time) >= choice.since)
    if choice.until:
        query = query.where(col(AuditRow.time) < choice.until)
    order = col(AuditRow.seq).desc() if newest_first else col(AuditRow.seq)
    with store.read() as session:
        return [_entry(r) for r in session.exec(query.order_by(order).limit(limit)).all()]


def _pattern(text: str) -> str:
    """For SQLite's GLOB, where only the '*' of a text means more than itself."""
    return text.replace("[", "[[]").replace("?", "[?]")


def first_rows(store: Store, column: str, **where: str) -> dict[str, int]:
    """The first row in which a column has each of its values. Raises StoreError."""
    if column not in COLUMNS or not where.keys() <= set(COLUMNS):
        raise ValueError(f"the audit log has no column {column!r} or {sorted(where)}")
    conditions = "".join(f" AND {name} = :{name}" for name in where)
    query = f"SELECT {column}, min(seq) FROM audit WHERE {column} != ''{conditions} GROUP BY {column}"  # noqa: S608
    from sqlalchemy import text

    with store.read() as session:
        return {str(value): int(seq) for value, seq in session.execute(text(query), where).all()}


def has_rows(store: Store, kind: str, name: str) -> bool:
    """Whether any row is about this resource. Raises StoreError."""
    return any(True for _ in choose(store, Choice(kind=kind, names=(name,)), 1))


def verify_chain(store: Store) -> tuple[int, str]:
    """Rows proven, and the first fault in words (empty when there is none). Raises StoreError."""
    reading = read_chain(store)
    return reading.proven, reading.faults[0].message if reading.faults else ""


def read_chain(store: Store, wanted: Collection[int] = ()) -> ChainReading:
    """Prove every row from the first, and keep the hashes of the rows `wanted`. Raises StoreError.

    After a fault it goes on from what is written there, so that each fault is named once.
    """
    reading = ChainReading()
    prev, last = GENESIS.encode(), 0
    keep = frozenset(wanted)
    with _bytes_connection(store) as connection:
        for seq, row_prev, row_hash, boottime, time, *rest in _bytes_rows(connection):
            content = _framed([row_prev, b"%d" % seq, time, repr(boottime).encode(), *rest])
            is_right = hashlib.sha256(content).hexdigest().encode() == row_hash
            if not is_right or row_prev != prev or seq != last + 1:
                if not reading.faults:
                    reading.proven = last
                if len(reading.faults) < MOST_FAULTS:
                    if why := _misplaced(connection, last, prev, seq, row_prev):
                        reading.faults.append(Fault(seq=seq, message=why))
                    if not is_right:
                        changed = f"row {seq} was changed: its content does not give its hash"
                        reading.faults.append(Fault(seq=seq, message=changed))
            if seq in keep:
                reading.hashes[seq] = _text(row_hash)
            prev, last = row_hash, seq
            reading.count += 1
    reading.last_seq = last
    if not reading.faults:
        reading.proven = last
    del reading.faults[MOST_FAULTS:]
    return reading


def _misplaced(connection: sqlite3.Connection, last: int, prev: bytes, seq: int, row_prev: bytes) -> str:
    """Why a row cannot stand where it does; empty where it can."""
    if seq != last + 1:
        return _missing(last, seq)
    return "" if row_prev == prev else _out_of_order(connection, last, seq, row_prev)


def _missing(last_seq: int, seq: int) -> str:
    if seq - last_seq == 2:
        return f"row {last_seq + 1} is missing: the next row is {seq}"
    return f"rows {last_seq + 1} to {seq - 1} are missing: the next row is {seq}"


def _out_of_order(connection: sqlite3.Connection, last_seq: int, seq: int, prev: bytes) -> str:
    """A row that follows another row of the log than the one before it was put elsewhere."""
    found = connection.execute("SELECT seq FROM audit WHERE hash = CAST(? AS TEXT) LIMIT 1", (prev,)).fetchone()
    if found is not None:
        return f"row {seq} does not follow row {last_seq} but row {found[0]}: rows were put in another order"
    return f"row {seq} does not follow row {last_seq}: its 'prev' is another hash"


@contextmanager
def _bytes_connection(store: Store) -> Iterator[sqlite3.Connection]:
    """A connection of its own that gives texts as the bytes they are: quicker, and nothing can be undecodable."""
    try:
        uri = f"file:{quote(str(store.path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
            connection.text_factory = bytes
            yield connection
    except sqlite3.Error as error:
        raise StoreError(f"reading the audit log of {store.path} failed: {error}") from error


def _bytes_rows(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """seq, prev, hash, boottime, time, and the other columns in the order of `COLUMNS`."""
    others = ", ".join(c for c in COLUMNS if c not in ("time", "boottime"))
    query = f"SELECT seq, prev, hash, boottime, time, {others} FROM audit ORDER BY seq"  # noqa: S608 - our own columns
    yield from connection.execute(query)


def _framed(values: list[Any]) -> bytes:
    """Each value with its length before it; in the usual case without a step of Python for each of them."""
    parts: list[bytes] = [b""] * (2 * len(values))
    try:
        parts[::2] = list(map(_LENGTHS.__getitem__, map(len, values)))
    except (TypeError, IndexError):
        return b"".join(map(_frame, values))
    parts[1::2] = values
    return b"".join(parts)


def _frame(value: object) -> bytes:
    content = value if isinstance(value, bytes) else _show(value).encode("utf-8", "surrogatepass")
    return _show_length(len(content)) + content


_show_length = struct.Struct(">Q").pack
_LENGTHS = [_show_length(length) for length in range(_USUAL_BYTES)]


def _show(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _entry(row: "AuditRow") -> ChainedEntry:
    entry = AuditEntry(**{c: getattr(row, c) for c in COLUMNS})
    return ChainedEntry(seq=row.seq, entry=entry, prev=row.prev, hash=row.hash)


def _values(entry: AuditEntry) -> Iterator[object]:
    for column in COLUMNS:
        yield getattr(entry, column)
