"""The steps that bring a state.db of an older release forward, oldest first.

A step gets Alembic's operations on the open transaction of the one writer, and never looks at `tables.py`: it says
what changed then, whatever the tables are today. All steps, and the version that they lead to, are one transaction.
Alembic is imported when there is something to migrate.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.store.copy import copy_database

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection

Migration = Callable[["Operations"], None]

FIRST_VERSION = 1
"""The schema of the first release; the i-th step leads from `FIRST_VERSION + i` to the next."""


def add_orchestration(op: "Operations") -> None:
    """Schedules; of a run: key, occurrence, what the hub made it for, acceptance, fall-back and escalation."""
    from sqlalchemy import Column, Integer, String

    for name in ("key", "purpose", "parent", "schedule", "due", "remedy", "tried", "escalated"):
        op.add_column("task", Column(name, String, nullable=False, server_default=""))
    for name, empty in (("schemas", "{}"), ("checks", "[]")):
        op.add_column("task", Column(name, String, nullable=False, server_default=empty))
    for name in ("step", "spent"):
        op.add_column("task", Column(name, Integer, nullable=False, server_default="0"))
    op.create_table(
        "schedule",
        Column("name", String, primary_key=True),
        *(Column(name, String, nullable=False) for name in ("cron", "zone", "since")),
    )


def add_trust_and_alerts(op: "Operations") -> None:
    """How far agents are trusted; notices on their way to sinks; of a condition whether somebody was told of it."""
    from sqlalchemy import Boolean, Column, Float, Integer, String

    op.create_table(
        "trust",
        Column("agent", String, primary_key=True),
        Column("score", Float, nullable=False),
        *(Column(name, String, nullable=False) for name in ("at", "spec_digest", "epoch", "counted", "reason")),
    )
    op.create_table(
        "notice",
        Column("seq", Integer, primary_key=True),
        *(Column(name, String, nullable=False) for name in ("sink", "document")),
    )
    op.add_column("condition", Column("alerted", Boolean, nullable=False, server_default="0"))


def add_lifecycle(op: "Operations") -> None:
    """Roll-outs that are taken back, and what operators want of instances."""
    from sqlalchemy import Column, String

    for name in ("previous", "rejected"):
        op.add_column("instance", Column(name, String, nullable=False, server_default=""))
    op.create_table(
        "order",
        Column("name", String, primary_key=True),
        *(Column(name, String, nullable=False) for name in ("verb", "actor", "at")),
    )


def add_usage(op: "Operations") -> None:
    """What a run used of a model."""
    from sqlalchemy import Column, String

    op.add_column("result", Column("usage", String, nullable=False, server_default="null"))


def add_all_crashes(op: "Operations") -> None:
    """How often an instance crashed since it was made."""
    from sqlalchemy import Column, Integer

    op.add_column("instance", Column("all_crashes", Integer, nullable=False, server_default="0"))


def add_checkpoints(op: "Operations") -> None:
    """Signed checkpoints of the audit log."""
    from sqlalchemy import Column, Integer, String

    op.create_table(
        "checkpoint",
        Column("seq", Integer, primary_key=True),
        *(Column(name, String, nullable=False) for name in ("fleet", "hash", "time", "key", "signature", "noted")),
    )


def add_lines(op: "Operations") -> None:
    """Where each run stands in line, and an index for each question about runs."""
    from sqlalchemy import Column, Integer, String

    for name in ("line", "needs"):
        op.add_column("task", Column(name, String, nullable=False, server_default=""))
    op.add_column("task", Column("rank", Integer, nullable=False, server_default="0"))
    op.execute("UPDATE task SET rank = -priority WHERE priority != 0")
    op.execute(
        "UPDATE task SET needs = coalesce(json_extract(manifest, '$.spec.dependsOn'), ''), line = json_array("
        "json_extract(manifest, '$.spec.agent'), json(json_extract(manifest, '$.spec.requires')), "
        "json(json_extract(manifest, '$.spec.select')), json_extract(manifest, '$.spec.sensitivity')) "
        "WHERE purpose = '' AND json_valid(manifest) "
        "AND state NOT IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'rejected')"
    )
    for name, columns in {
        "line": ["state", "agent", "line", "rank", "created_at", "run", "needs"],
        "group": ["state", "agent", "line", "needs", "run"],
        "rank": ["state", "rank", "created_at", "run"],
        "later": ["state", "not_before_boot"],
        "attempts": ["state", "attempts"],
        "purpose": ["state", "purpose"],
        "parent": ["parent", "purpose"],
        "git": ["source", "schedule", "purpose"],
        "schedule": ["state", "schedule"],
        "due": ["schedule", "due"],
        "ended": ["finished_at", "state"],
        "age": ["created_at", "run"],
        "key": ["key"],
        "escalated": ["escalated"],
    }.items():
        op.create_index(f"ix_task_{name}", "task", columns)
    op.create_index("ix_attempt_ended_at", "attempt", ["ended_at"])
    op.create_index("ix_dropped_name", "dropped", ["name"])


def add_observed(op: "Operations") -> None:
    """By which revision a condition was found, and by what that says of its subject."""
    from sqlalchemy import Column, String

    for name in ("observed_revision", "input_digest"):
        op.add_column("condition", Column(name, String, nullable=False, server_default=""))


MIGRATIONS: tuple[Migration, ...] = (
    add_orchestration,
    add_trust_and_alerts,
    add_lifecycle,
    add_usage,
    add_all_crashes,
    add_checkpoints,
    add_lines,
    add_observed,
)

SCHEMA_VERSION = FIRST_VERSION + len(MIGRATIONS)


def migrate(connection: "Connection", steps: Sequence[Migration]) -> None:
    """Take the steps, in order, inside the transaction that `connection` is in. Raises what SQLAlchemy raises."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    for step in steps:
        step(operations)


def keep_copy(path: Path, version: int) -> Path:
    """Copy the last committed state to `<path>.v<version>`, whole or not at all. Raises sqlite3.Error, OSError."""
    kept = path.with_name(f"{path.name}.v{version}")
    copy_database(path, kept)
    return kept
