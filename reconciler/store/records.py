"""Instances, task runs, revisions, units and conditions: records in and out of state.db.

A record is a frozen dataclass with the columns of its table. Writers take the record whole; what must become durable
together is written inside one `Store.transaction()`. SQLModel is imported by the first question, not with this module.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from reconciler.core.condition import Condition
from reconciler.store.store import Store

if TYPE_CHECKING:
    from sqlmodel import SQLModel


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One instance. `phase` is a word of the lifecycle; `manifest` the JSON of the author's words, as applied.

    `crashes` counts those in a row, `all_crashes` all since it was made.

    `previous` and `rejected` are JSON, empty where there is nothing to say: what it was made from when it last shook
    hands, before the present manifest; and which manifest it was taken back from, with the reason.
    """

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
    all_crashes: int = 0
    reason: str = ""
    previous: str = ""
    rejected: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRecord:
    """What an operator wants of one instance: `verb` is restart, drain, quarantine or release; `at` is ISO, UTC."""

    name: str
    verb: str
    actor: str
    at: str


CANCEL_REQUESTED = "cancel requested"
"""How the reason of a run begins that its agent was asked to stop."""

DELEGATION = "delegation"
"""The purpose of a run that another run asked for, and the key of its manifest that says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One run of a task.

    `key` is the submitter's idempotency key. `purpose` is empty for what somebody asked for, else why the hub made the
    run for its `parent` (a run id): `check` number `step` of its acceptance, `escalation`, or `delegation` to the
    instance with the ordinal `step`. `sent_epoch` is the life of the router in which its instance was told to begin; of
    a delegated run that is over, in which who asked was told of that. `schedule` and `due` say which occurrence of
    which manifest it is. `schemas` are the contents of the files that `acceptance` names, `checks` the verdicts on the
    present attempt, `remedy` what was wrong with the one before; all JSON but the last. `tried` are agents that had all
    their attempts, `spent` how many those were together. `escalated` is to whom, or `acknowledged`.
    """

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
    key: str = ""
    purpose: str = ""
    parent: str = ""
    step: int = 0
    schedule: str = ""
    due: str = ""
    schemas: str = "{}"
    checks: str = "[]"
    remedy: str = ""
    tried: str = ""
    spent: int = 0
    escalated: str = ""


class GitRunRecord(NamedTuple):
    """A run of git in short: of each manifest that was ever carried out, and of schedules those that wait."""

    run: str
    name: str
    spec_digest: str
    state: str
    schedule: str
    generation: int
    checks: str

    @property
    def record(self) -> TaskRecord:
        """Enough of it to plan its end; without its manifest."""
        return TaskRecord(**self._asdict(), manifest="", source="git")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """One schedule of git: what was due until `since` (ISO, UTC) was seen to."""

    name: str
    cron: str
    zone: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """What a run produced; `result`, `artefacts` and `usage` (of a model, as the executor counts it) are JSON."""

    run: str
    exit_code: int | None = None
    result: str = "null"
    error: str = ""
    stderr_tail: str = ""
    artefacts: str = "[]"
    duration_s: float = 0.0
    usage: str = "null"


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
class TrustRecord:
    """How far one agent was trusted at a time; `counted` is JSON, see `TrustRow`."""

    agent: str
    score: float
    at: str
    spec_digest: str = ""
    epoch: str = ""
    counted: str = "{}"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRecord:
    """One notice that a sink has not got yet; `seq` is None before it is kept."""

    seq: int | None = None
    sink: str
    document: str


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
    alerted: bool = False
    observed_revision: str = ""
    input_digest: str = ""


R = TypeVar("R")


def _table(record: type[Any]) -> "type[SQLModel]":
    from reconciler.store import tables

    table: type[SQLModel] = getattr(tables, record.__name__.replace("Record", "Row"))
    return table


@lru_cache(maxsize=64)
def _columns(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def _all(store: Store, record: type[R], **where: object) -> list[R]:
    """Records whose columns equal the values given; a list of values means any of them."""
    conditions: list[str] = []
    for name, value in where.items():
        is_list = isinstance(value, list | tuple)
        conditions.append(f'"{name}" IN (SELECT value FROM json_each(:{name}))' if is_list else f'"{name}" = :{name}')
    values = {n: json.dumps(v) if isinstance(v, list | tuple) else v for n, v in where.items()}
    names = _columns(record)  # type: ignore[arg-type]
    quoted = ", ".join(f'"{n}"' for n in names)
    condition = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = store.rows(f'SELECT {quoted} FROM "{_table(record).__tablename__}"{condition}', **values)
    return [record(**dict(zip(names, _typed(record, row), strict=True))) for row in rows]


def _typed(record: type[Any], row: Sequence[Any]) -> Sequence[Any]:
    """SQLite has no booleans."""
    places = _booleans(record)  # type: ignore[arg-type]
    return [bool(v) if n in places else v for n, v in enumerate(row)] if places else row


@lru_cache(maxsize=64)
def _booleans(record: type[Any]) -> frozenset[int]:
    return frozenset(n for n, f in enumerate(fields(record)) if f.type is bool)


def _put(store: Store, records: Iterable[Any]) -> None:
    """Insert these records, or overwrite those of the same key."""
    by_type: dict[type[Any], list[dict[str, object]]] = {}
    for record in records:
        row = {n: getattr(record, n) for n in _columns(type(record))}  # type: ignore[arg-type]
        by_type.setdefault(type(record), []).append(row)
    with store.transaction():
        for type_, rows in by_type.items():
            _upsert(store, type_, rows)


def _upsert(store: Store, record: type[Any], rows: list[dict[str, object]]) -> None:
    if rows:
        store.write(_upsert_into(record), rows)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _upsert_into(record: type[Any]) -> str:
    table: Any = _table(record).__table__  # type: ignore[attr-defined]
    names = [c.name for c in table.columns]
    keys = [c.name for c in table.primary_key]
    changed = ", ".join(f'"{n}" = excluded."{n}"' for n in names if n not in keys)
    columns, values = ", ".join(f'"{n}"' for n in names), ", ".join(f":{n}" for n in names)
    return f'INSERT INTO "{table.name}" ({columns}) VALUES ({values}) ON CONFLICT DO UPDATE SET {changed}'


def _delete(store: Store, record: type[Any], **where: list[Any]) -> None:
    """Remove those whose column has one of the values."""
    for name, values in where.items():
        if values:
            listed = f'"{name}" IN (SELECT value FROM json_each(:values))'
            statement = f'DELETE FROM "{_table(record).__tablename__}" WHERE {listed}'
            store.write(statement, [{"values": json.dumps(values)}])


# --- instances --------------------------------------------------------------------------------------------------------


def instances(store: Store) -> Mapping[str, InstanceRecord]:
    """All instances by name."""
    return store.remembered("instances", lambda: {r.name: r for r in _all(store, InstanceRecord)})


def instance(store: Store, name: str) -> InstanceRecord | None:
    """One instance, read afresh: its cost does not grow with the fleet."""
    return next(iter(_all(store, InstanceRecord, name=name)), None)


def put_instance(store: Store, record: InstanceRecord) -> None:
    _put(store, [record])


def delete_instance(store: Store, name: str) -> None:
    """Forget an instance, and what was wanted of it."""
    with store.transaction():
        _delete(store, InstanceRecord, name=[name])
        _delete(store, OrderRecord, name=[name])


def orders(store: Store) -> Mapping[str, OrderRecord]:
    """What operators want, by instance."""
    return store.remembered("orders", lambda: {r.name: r for r in _all(store, OrderRecord)})


def put_orders(store: Store, records: Sequence[OrderRecord]) -> None:
    _put(store, records)


def delete_order(store: Store, order: OrderRecord) -> None:
    """Exactly this one: what was asked for meanwhile stays."""
    if orders(store).get(order.name) == order:
        _delete(store, OrderRecord, name=[order.name])


# --- tasks ------------------------------------------------------------------------------------------------------------


def tasks(store: Store) -> Sequence[TaskRecord]:
    """All runs, oldest first."""
    return store.remembered("tasks", lambda: sorted(_all(store, TaskRecord), key=_age))


def tasks_in(
    store: Store, states: Sequence[str], instance: str | None = None, purpose: str | None = None
) -> list[TaskRecord]:
    """Runs in one of these states, of one instance or of all, made for one purpose or any; oldest first."""
    given = {name: value for name, value in (("instance", instance), ("purpose", purpose)) if value is not None}
    where = "".join(f" AND {name} = :{name}" for name in given)
    wanted = "state IN (SELECT value FROM json_each(:states))"
    return select_tasks(store, f"{wanted}{where} ORDER BY created_at, run", states=json.dumps(list(states)), **given)


def tasks_of(store: Store, name: str) -> list[TaskRecord]:
    """All runs of a task's name, and the run of that id; oldest first."""
    return select_tasks(store, "name = :name OR run = :name ORDER BY created_at, run", name=name)


def tasks_with_key(store: Store, key: str) -> list[TaskRecord]:
    """Runs that were asked for under an idempotency key, whoever's it was; oldest first."""
    return select_tasks(store, "key = :key ORDER BY created_at, run", key=key)


def newest_tasks(store: Store, most: int, before: TaskRecord | None = None) -> list[TaskRecord]:
    """The newest so many runs, of those older than `before` where there is one; oldest first."""
    at, run = _age(before) if before is not None else ("~", "")
    where = "(created_at, run) < (:at, :run) ORDER BY created_at DESC, run DESC LIMIT :most"
    return select_tasks(store, where, at=at, run=run, most=most)[::-1]


def tasks_of_schedule(store: Store, name: str, most: int) -> list[TaskRecord]:
    """The last so many runs of a schedule, oldest first."""
    return select_tasks(store, "schedule = :name ORDER BY due DESC, run DESC LIMIT :most", name=name, most=most)[::-1]


def select_tasks(store: Store, where: str, **values: object) -> list[TaskRecord]:
    """Runs by a condition in SQL on the table `task`, in which what follows it may stand, too."""
    columns = _columns(TaskRecord)
    rows = store.rows(f"SELECT task.{', task.'.join(columns)} FROM task WHERE {where}", **values)
    return [TaskRecord(**dict(zip(columns, row, strict=True))) for row in rows]


def _age(task: TaskRecord) -> tuple[str, str]:
    return task.created_at, task.run


def task(store: Store, run: str) -> TaskRecord | None:
    found = select_tasks(store, "run = :run", run=run)
    return found[0] if found else None


def put_tasks(store: Store, records: Sequence[TaskRecord]) -> None:
    """Write these runs, and where each stands in line: a run that the hub made for another one stands in none."""
    columns = _columns(TaskRecord)
    rows: list[dict[str, object]] = []
    for record in records:
        line, needs = line_of(record.manifest)
        place = {"line": "" if record.purpose else line, "needs": needs, "rank": -record.priority}
        rows.append({**{n: getattr(record, n) for n in columns}, **place})
    _upsert(store, TaskRecord, rows)


@lru_cache(maxsize=4096)
def line_of(manifest: str) -> tuple[str, str]:
    """Of a run's manifest: what decides which agents may have it, and the names of what it depends on; both as JSON.

    The latter is empty where it depends on nothing.
    """
    spec = json.loads(manifest).get("spec", {})
    asked = [spec.get(name) for name in ("agent", "requires", "select", "sensitivity")]
    needs = spec.get("dependsOn")
    return json.dumps(asked, separators=(",", ":")), json.dumps(needs, separators=(",", ":")) if needs else ""


def put_result(store: Store, record: ResultRecord) -> None:
    _put(store, [record])


def results(store: Store, runs: Sequence[str]) -> dict[str, ResultRecord]:
    """Results by run, for those that have one."""
    return {r.run: r for r in _all(store, ResultRecord, run=list(runs))} if runs else {}


def runs_without_result(store: Store) -> frozenset[str]:
    """Runs that count as succeeded, but left no result."""
    query = (
        "SELECT task.run FROM task LEFT JOIN result ON result.run = task.run "
        "WHERE task.state = 'succeeded' AND result.run IS NULL"
    )
    return store.remembered("without_result", lambda: frozenset(row[0] for row in store.rows(query)))


def put_attempt(store: Store, record: AttemptRecord) -> None:
    _put(store, [record])


def attempts(store: Store, run: str) -> list[AttemptRecord]:
    """All executions of a run, in order."""
    return sorted(_all(store, AttemptRecord, run=run), key=lambda a: a.generation)


def schedules(store: Store) -> Mapping[str, ScheduleRecord]:
    """All schedules by the name of their manifest."""
    return store.remembered("schedules", lambda: {r.name: r for r in _all(store, ScheduleRecord)})


def put_schedule(store: Store, record: ScheduleRecord) -> None:
    _put(store, [record])


def delete_schedule(store: Store, name: str) -> None:
    _delete(store, ScheduleRecord, name=[name])


def delete_runs(store: Store, runs: list[str]) -> None:
    """Forget runs with their results, attempts, and the answered files that asked for them."""
    with store.transaction():
        for record in (ResultRecord, AttemptRecord, DroppedRecord, TaskRecord):
            _delete(store, record, run=runs)


def dropped(store: Store) -> list[DroppedRecord]:
    """Dropped files that have no answer beside them yet."""
    return _all(store, DroppedRecord, answered=False)


def dropped_as(store: Store, name: str) -> list[DroppedRecord]:
    """Those of this name that have no answer yet."""
    return _all(store, DroppedRecord, name=name, answered=False)


def dropped_and_over(store: Store) -> list[DroppedRecord]:
    """Those whose run has ended, and that have no answer yet."""
    query = (
        "SELECT dropped.target FROM dropped JOIN task ON task.run = dropped.run WHERE NOT dropped.answered "
        "AND task.state IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'rejected')"
    )
    targets = store.remembered("dropped_and_over", lambda: [row[0] for row in store.rows(query)])
    return _all(store, DroppedRecord, target=targets) if targets else []


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
    return frozenset(row[0] for row in store.rows("SELECT id FROM blob"))


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
            alerted=r.alerted,
            observed_revision=r.observed_revision,
            input_digest=r.input_digest,
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
                alerted=c.alerted,
                observed_revision=c.observed_revision,
                input_digest=c.input_digest,
            )
            for c in changed
        ],
    )


# --- trust and alerts -------------------------------------------------------------------------------------------------


def trust(store: Store) -> Mapping[str, TrustRecord]:
    """What is on record of agents by name; nothing of those that did nothing worth noting."""
    return store.remembered("trust", lambda: {r.agent: r for r in _all(store, TrustRecord)})


def put_trust(store: Store, changed: Sequence[TrustRecord]) -> None:
    _put(store, changed)


def delete_trust(store: Store, agents: Iterable[str]) -> None:
    _delete(store, TrustRecord, agent=sorted(agents))


def notices(store: Store) -> list[NoticeRecord]:
    """Notices that no sink has got yet, oldest first."""
    return sorted(_all(store, NoticeRecord), key=lambda n: n.seq or 0)


def put_notices(store: Store, new: Sequence[NoticeRecord]) -> None:
    _put(store, new)


def delete_notices(store: Store, seqs: Sequence[int]) -> None:
    _delete(store, NoticeRecord, seq=list(seqs))
