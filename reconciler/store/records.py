"""Instances, task runs, revisions, units and conditions: records in and out of state.db.

A record is a frozen dataclass with the columns of its table. Writers take the record whole; what must become durable
together is written inside one `Store.transaction()`. SQLModel is imported by the first question, not with this module.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler.core.condition import Condition
from reconciler.store.store import Store

if TYPE_CHECKING:
    from sqlmodel import SQLModel


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One instance. `phase` is a word of the lifecycle; `manifest` the JSON of the author's words, as applied."""

    name: str
    agent: str
    ordinal: int
    phase: str
    spec_digest: str
    manifest: str
    revision: str
    image_id: str = ""
    container_id: str = ""
    fields: str = "{}"
    uid: int = 1000
    token_sha256: str = ""
    token_expires_at: float = 0.0
    created_at: str = ""
    updated_at: str = ""
    crashes: int = 0
    reason: str = ""


CANCEL_REQUESTED = "cancel requested"
"""How the reason of a run begins that its agent was asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One run of a task."""

    run: str
    name: str
    spec_digest: str
    manifest: str
    source: str
    uid: int = 0
    revision: str = ""
    state: str
    reason: str = ""
    priority: int = 0
    agent: str = ""
    instance: str = ""
    generation: int = 0
    attempts: int = 0
    sent_epoch: str = ""
    boot_id: str = ""
    assigned_boot: float = 0.0
    not_before_boot: float = 0.0
    created_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    policy_revision: str = ""
    progress: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """What a run produced; `result` and `artefacts` are JSON."""

    run: str
    exit_code: int | None = None
    result: str = "null"
    error: str = ""
    stderr_tail: str = ""
    artefacts: str = "[]"
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One execution of a run."""

    run: str
    generation: int
    instance: str
    container_id: str = ""
    assigned_at: str = ""
    started_at: str = ""
    ended_at: str = ""
    outcome: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRecord:
    """A revision that was looked at; `tree` is JSON (path -> [blob, size, mode]), empty unless it was accepted."""

    id: str
    author: str = ""
    subject: str = ""
    committed_at: str = ""
    audited: bool = True
    seen_at: str = ""
    applied_at: str = ""
    problems: str = "[]"
    tree: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRecord:
    """One dropped file: which run it became, where it goes, and how far it got."""

    target: str
    name: str
    digest: str
    signature: str
    uid: int
    run: str
    claimed: bool = False
    answered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """Back-off of one unit."""

    unit: str
    input_digest: str
    failures: int
    same_failures: int
    not_before_boot: float
    boot_id: str
    reason: str
    stalled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRecord:
    """One kept content."""

    id: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionRecord:
    """One condition as it is kept."""

    subject: str
    type: str
    status: bool
    reason: str
    message: str
    since: str


R = TypeVar("R")


def _table(record: type[Any]) -> "type[SQLModel]":
    from reconciler.store import tables

    table: type[SQLModel] = getattr(tables, record.__name__.replace("Record", "Row"))
    return table


def _columns(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def _all(store: Store, record: type[R], **where: object) -> list[R]:
    """Records whose columns equal the values given; a list of values means any of them."""
    from sqlalchemy import select

    table: Any = _table(record)
    names = _columns(record)
    query = select(*(getattr(table, n) for n in names))
    for name, value in where.items():
        column = getattr(table, name)
        query = query.where(column.in_(value) if isinstance(value, list | tuple) else column == value)
    with store.read() as session:
        rows = session.execute(query).all()
    return [record(**dict(zip(names, row, strict=True))) for row in rows]


def _put(store: Store, records: Iterable[Any]) -> None:
    with store.transaction() as session:
        for record in records:
            values = {n: getattr(record, n) for n in _columns(type(record))}
            session.merge(_table(type(record))(**values))


def _delete(store: Store, record: type[Any], **where: list[str]) -> None:
    from sqlalchemy import delete

    table: Any = _table(record)
    if not any(where.values()):
        return
    with store.transaction() as session:
        for name, values in where.items():
            session.execute(delete(table).where(getattr(table, name).in_(values)))


# --- instances --------------------------------------------------------------------------------------------------------


def instances(store: Store) -> Mapping[str, InstanceRecord]:
    """All instances by name."""
    return store.remembered("instances", lambda: {r.name: r for r in _all(store, InstanceRecord)})


def put_instance(store: Store, record: InstanceRecord) -> None:
    _put(store, [record])


def delete_instance(store: Store, name: str) -> None:
    _delete(store, InstanceRecord, name=[name])


# --- tasks ------------------------------------------------------------------------------------------------------------


def tasks(store: Store) -> Sequence[TaskRecord]:
    """All runs, oldest first."""
    return store.remembered("tasks", lambda: sorted(_all(store, TaskRecord), key=lambda t: (t.created_at, t.run)))


def tasks_in(store: Store, states: Sequence[str], instance: str | None = None) -> list[TaskRecord]:
    """Runs in one of these states, of one instance or of all."""
    return [t for t in tasks(store) if t.state in states and instance in (None, t.instance)]


def task(store: Store, run: str) -> TaskRecord | None:
    found = _all(store, TaskRecord, run=run)
    return found[0] if found else None


def put_tasks(store: Store, records: Sequence[TaskRecord]) -> None:
    _put(store, records)


def put_result(store: Store, record: ResultRecord) -> None:
    _put(store, [record])


def results(store: Store, runs: Sequence[str]) -> dict[str, ResultRecord]:
    """Results by run, for those that have one."""
    return {r.run: r for r in _all(store, ResultRecord, run=list(runs))} if runs else {}


def runs_without_result(store: Store) -> frozenset[str]:
    """Runs that count as succeeded, but left no result."""
    from sqlalchemy import select

    run: Any = _table(TaskRecord)
    result: Any = _table(ResultRecord)
    query = (
        select(run.run).outerjoin(result, result.run == run.run).where(run.state == "succeeded", result.run.is_(None))
    )
    with store.read() as session:
        return frozenset(row[0] for row in session.execute(query).all())


def put_attempt(store: Store, record: AttemptRecord) -> None:
    _put(store, [record])


def attempts(store: Store, run: str) -> list[AttemptRecord]:
    """All executions of a run, in order."""
    return sorted(_all(store, AttemptRecord, run=run), key=lambda a: a.generation)


def dropped(store: Store) -> list[DroppedRecord]:
    """Dropped files that have no answer beside them yet."""
    return _all(store, DroppedRecord, answered=False)


def put_dropped(store: Store, record: DroppedRecord) -> None:
    _put(store, [record])


# --- revisions --------------------------------------------------------------------------------------------------------


def revision(store: Store, id_: str) -> RevisionRecord | None:
    found = _all(store, RevisionRecord, id=id_)
    return found[0] if found else None


def revisions(store: Store) -> list[RevisionRecord]:
    """All revisions that were looked at."""
    return _all(store, RevisionRecord)


def put_revision(store: Store, record: RevisionRecord) -> None:
    _put(store, [record])


def blob_ids(store: Store) -> frozenset[str]:
    """Which contents are kept."""
    from sqlalchemy import select

    table: Any = _table(BlobRecord)
    with store.read() as session:
        return frozenset(row[0] for row in session.execute(select(table.id)).all())


def keep_blobs(store: Store, new: Mapping[str, bytes], gone: Iterable[str]) -> None:
    """Keep these contents by blob id, and drop those that no manifest has any more."""
    with store.transaction():
        _delete(store, BlobRecord, id=sorted(gone))
        _put(store, [BlobRecord(id=i, content=content) for i, content in sorted(new.items())])


def blobs(store: Store, ids: Sequence[str]) -> dict[str, bytes]:
    """Kept contents by blob id."""
    wanted = set(ids)
    return {b.id: b.content for b in _all(store, BlobRecord) if b.id in wanted}


# --- units and conditions ---------------------------------------------------------------------------------------------


def units(store: Store) -> dict[str, UnitRecord]:
    """Units that are backing off or stalled, by name."""
    return {u.unit: u for u in _all(store, UnitRecord)}


def put_unit(store: Store, record: UnitRecord) -> None:
    _put(store, [record])


def clear_units(store: Store, names: Iterable[str]) -> None:
    _delete(store, UnitRecord, unit=list(names))


def conditions(store: Store) -> dict[tuple[str, str], Condition]:
    """All conditions by (subject, type)."""
    return {
        (r.subject, r.type): Condition(
            subject=r.subject,
            type=r.type,
            status=r.status,
            reason=r.reason,
            message=r.message,
            since=datetime.fromisoformat(r.since),
        )
        for r in _all(store, ConditionRecord)
    }


def put_conditions(store: Store, changed: Iterable[Condition]) -> None:
    _put(
        store,
        [
            ConditionRecord(
                subject=c.subject,
                type=c.type,
                status=c.status,
                reason=c.reason,
                message=c.message,
                since=c.since.isoformat(),
            )
            for c in changed
        ],
    )
