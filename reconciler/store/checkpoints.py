"""Signed checkpoints of the audit log in state.db, and which of them stand in a git note."""

from dataclasses import dataclass, fields

from reconciler.core.checkpoint import Checkpoint
from reconciler.store.store import Store

_COLUMNS = tuple(f.name for f in fields(Checkpoint))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCheckpoint:
    """`noted` is the commit whose note has it; empty where none has."""

    checkpoint: Checkpoint
    noted: str = ""


def put_checkpoint(store: Store, checkpoint: Checkpoint, noted: str = "") -> None:
    """Keep it, in the place of another one of the same row. Raises StoreError."""
    from reconciler.store.tables import CheckpointRow

    with store.transaction(), store.read() as session:
        session.merge(CheckpointRow(**{c: getattr(checkpoint, c) for c in _COLUMNS}, noted=noted))


def checkpoints(store: Store) -> list[KeptCheckpoint]:
    """All of them, in order. Raises StoreError."""
    return _read(store, "ORDER BY seq")


def newest_checkpoint(store: Store) -> KeptCheckpoint | None:
    """Raises StoreError."""
    return next(iter(_read(store, "ORDER BY seq DESC LIMIT 1")), None)


def _read(store: Store, rest: str) -> list[KeptCheckpoint]:
    query = f"SELECT {', '.join(_COLUMNS)}, noted FROM checkpoint {rest}"  # noqa: S608 - our own words
    return [
        KeptCheckpoint(checkpoint=Checkpoint(**dict(zip(_COLUMNS, values, strict=True))), noted=noted)
        for *values, noted in store.rows(query)
    ]
