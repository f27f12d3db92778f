"""The tables of state.db as SQLModel classes. Only `store/` imports them.

A change of a table is a new step in `migrations.py`, too.
"""

from sqlalchemy import Index
from sqlmodel import Field, SQLModel


class MetaRow(SQLModel, table=True):
    """Single values: schema version, fleet id, branch, cursors."""

    __tablename__ = "meta"
    key: str = Field(primary_key=True)
    value: str


class RevisionRow(SQLModel, table=True):
    """Every revision that was looked at. `tree` is JSON: path -> [blob, size, mode]; kept while it may be needed."""

    __tablename__ = "revision"
    id: str = Field(primary_key=True)
    author: str = ""
    subject: str = ""
    committed_at: str = ""
    audited: bool = True
    seen_at: str = ""
    applied_at: str = ""
    problems: str = "[]"
    tree: str = ""


class BlobRow(SQLModel, table=True):
    """Contents of the manifests of the last good revision, so that it stays in force without git."""

    __tablename__ = "blob"
    id: str = Field(primary_key=True)
    content: bytes


class InstanceRow(SQLModel, table=True):
    """One instance of an agent. `manifest` is the JSON of what the author wrote, as applied,
    `fields` the JSON of the container's compared fields, as created."""

    __tablename__ = "instance"
    name: str = Field(primary_key=True)
    agent: str = Field(index=True)
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


class OrderRow(SQLModel, table=True):
    """What an operator wants of one instance, until it is done or taken back."""

    __tablename__ = "order"
    name: str = Field(primary_key=True)
    verb: str
    actor: str
    at: str


class TaskRow(SQLModel, table=True):
    """One run of a task. `manifest` is the JSON of what was asked; times ending in `_boot` are CLOCK_BOOTTIME.

    `line`, `needs` and `rank` follow from the others, for the questions of `store/queue.py`: so has each index.
    """

    __tablename__ = "task"
    __table_args__ = (
        Index("ix_task_line", "state", "agent", "line", "rank", "created_at", "run", "needs"),
        Index("ix_task_group", "state", "agent", "line", "needs", "run"),
        Index("ix_task_rank", "state", "rank", "created_at", "run"),
        Index("ix_task_later", "state", "not_before_boot"),
        Index("ix_task_attempts", "state", "attempts"),
        Index("ix_task_purpose", "state", "purpose"),
        Index("ix_task_parent", "parent", "purpose"),
        Index("ix_task_git", "source", "schedule", "purpose"),
        Index("ix_task_schedule", "state", "schedule"),
        Index("ix_task_due", "schedule", "due"),
        Index("ix_task_ended", "finished_at", "state"),
        Index("ix_task_age", "created_at", "run"),
    )
    run: str = Field(primary_key=True)
    name: str = Field(index=True)
    spec_digest: str
    manifest: str
    source: str
    uid: int = 0
    revision: str = ""
    state: str = Field(index=True)
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
    key: str = Field(default="", index=True)
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
    escalated: str = Field(default="", index=True)
    line: str = ""
    needs: str = ""
    rank: int = 0


class ScheduleRow(SQLModel, table=True):
    """One schedule of git. Everything that was due until `since` (UTC) was seen to."""

    __tablename__ = "schedule"
    name: str = Field(primary_key=True)
    cron: str
    zone: str
    since: str


class ResultRow(SQLModel, table=True):
    """What a run produced; apart from the run, because only readers of results want it."""

    __tablename__ = "result"
    run: str = Field(primary_key=True)
    exit_code: int | None = None
    result: str = "null"
    error: str = ""
    stderr_tail: str = ""
    artefacts: str = "[]"
    duration_s: float = 0.0
    usage: str = "null"


class AttemptRow(SQLModel, table=True):
    """One execution of a run: who had it under which generation, and how it ended."""

    __tablename__ = "attempt"
    run: str = Field(primary_key=True)
    generation: int = Field(primary_key=True)
    instance: str
    container_id: str = ""
    assigned_at: str = ""
    started_at: str = ""
    ended_at: str = Field(default="", index=True)
    outcome: str = ""
    reason: str = ""


class DroppedRow(SQLModel, table=True):
    """One dropped file. `target` is where it is moved to; `claimed` and `answered` say how far it got."""

    __tablename__ = "dropped"
    target: str = Field(primary_key=True)
    name: str = Field(index=True)
    digest: str
    signature: str
    uid: int
    run: str = Field(index=True)
    claimed: bool = False
    answered: bool = Field(default=False, index=True)


class UnitRow(SQLModel, table=True):
    """Back-off of one unit such as `agent/writer-0`. `input_digest` is what it failed with; another one clears it."""

    __tablename__ = "unit"
    unit: str = Field(primary_key=True)
    input_digest: str
    failures: int
    same_failures: int
    not_before_boot: float
    boot_id: str
    reason: str
    stalled: bool = False


class TrustRow(SQLModel, table=True):
    """How far one agent was trusted at `at`, by a manifest of this digest; `reason` is that of the last change.

    `counted` is JSON: how many events of each cause the router `epoch` had told of by then.
    """

    __tablename__ = "trust"
    agent: str = Field(primary_key=True)
    score: float
    at: str
    spec_digest: str = ""
    epoch: str = ""
    counted: str = "{}"
    reason: str = ""


class NoticeRow(SQLModel, table=True):
    """One notice of an alert that a sink has not got yet; `document` is JSON."""

    __tablename__ = "notice"
    seq: int | None = Field(default=None, primary_key=True)
    sink: str
    document: str


class ConditionRow(SQLModel, table=True):
    """`alerted` says that somebody was told of it and not yet of its end."""

    __tablename__ = "condition"
    subject: str = Field(primary_key=True)
    type: str = Field(primary_key=True)
    status: bool
    reason: str
    message: str
    since: str
    alerted: bool = False
    observed_revision: str = ""
    input_digest: str = ""


class AuditRow(SQLModel, table=True):
    """Append-only and hash-chained; see `store/audit.py`."""

    __tablename__ = "audit"
    seq: int = Field(primary_key=True)
    time: str
    boottime: float
    fleet: str
    revision: str
    actor: str
    cause: str
    kind: str
    name: str
    action: str
    before: str
    after: str
    outcome: str
    reason: str
    plan_digest: str
    policy_revision: str
    prev: str
    hash: str


class CheckpointRow(SQLModel, table=True):
    """A signed statement that row `seq` had this hash; `noted` is the commit whose note has it, if one has."""

    __tablename__ = "checkpoint"
    seq: int = Field(primary_key=True)
    fleet: str
    hash: str
    time: str
    key: str
    signature: str
    noted: str = ""
