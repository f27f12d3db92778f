"""The audit log: append-only rows, each carrying the hash of the one before it.

`append` is the only function that writes rows. The hash is SHA-256 over the previous hash and the length-prefixed
bytes of each column, so that no two rows can be confused whatever their texts contain.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from reconciler.store.store import Store

if TYPE_CHECKING:
    from reconciler.store.tables import AuditRow

GENESIS = "0" * 64


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
    from sqlmodel import col, select

    from reconciler.store.tables import AuditRow

    with store.transaction() as session:
        last = session.exec(select(AuditRow.seq, AuditRow.hash).order_by(col(AuditRow.seq).desc()).limit(1)).first()
        seq, prev = last if last else (0, GENESIS)
        for entry in entries:
            seq += 1
            row_hash = chain_hash(prev, seq, entry)
            session.add(AuditRow(seq=seq, prev=prev, hash=row_hash, **{c: getattr(entry, c) for c in COLUMNS}))
            prev = row_hash
        session.flush()


def chain_hash(prev: str, seq: int, entry: AuditEntry) -> str:
    """64 hex digits over `prev`, `seq` and every column in the order of `COLUMNS`."""
    hasher = hashlib.sha256()
    for value in (prev, str(seq), *(repr(v) if isinstance(v, float) else str(v) for v in _values(entry))):
        content = value.encode("utf-8", "surrogatepass")
        hasher.update(struct.pack(">Q", len(content)))
        hasher.update(content)
    return hasher.hexdigest()


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


def verify_chain(store: Store) -> tuple[int, str]:
    """Rows proven, and the first fault in words (empty when there is none)."""
    prev, count = GENESIS, 0
    for row in _walk(store):
        if row.seq != count + 1:
            return count, f"row {count + 1} is missing: the next row is {row.seq}"
        if row.prev != prev:
            return count, f"row {row.seq} does not follow row {count}: its 'prev' is another hash"
        if row.hash != chain_hash(prev, row.seq, row.entry):
            return count, f"row {row.seq} was changed: its content does not give its hash"
        prev, count = row.hash, row.seq
    return count, ""


def _entry(row: "AuditRow") -> ChainedEntry:
    entry = AuditEntry(**{c: getattr(row, c) for c in COLUMNS})
    return ChainedEntry(seq=row.seq, entry=entry, prev=row.prev, hash=row.hash)


def _walk(store: Store) -> Iterator[ChainedEntry]:
    after = 0
    while rows := read(store, after=after):
        yield from rows
        after = rows[-1].seq


def _values(entry: AuditEntry) -> Iterator[object]:
    for column in COLUMNS:
        yield getattr(entry, column)
