"""Opening a state.db of an older release: it is brought forward whole, or left as it was; a copy of it is kept.

`dumps/<version>.sql` is what a release left behind. One step more than there are today stands for the next release.
"""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import StoreError
from reconciler.store import audit, records
from reconciler.store.migrations import FIRST_VERSION, MIGRATIONS, SCHEMA_VERSION
from reconciler.store.store import Store

if TYPE_CHECKING:
    from alembic.operations import Operations

DUMPS = sorted((Path(__file__).parent / "dumps").glob("*.sql"), key=lambda path: int(path.stem))
NEXT = SCHEMA_VERSION + 1


def add_mood(op: "Operations") -> None:
    from sqlalchemy import Column, String

    op.add_column("instance", Column("mood", String, nullable=False, server_default="calm"))


def rename_mood(op: "Operations") -> None:
    with op.batch_alter_table("instance") as table:
        table.alter_column("mood", new_column_name="temper")


def break_off(op: "Operations") -> None:
    add_mood(op)
    op.execute("UPDATE instance SET phase = 'lost', missing = 1")


def be_killed(op: "Operations") -> None:
    add_mood(op)
    op.execute("DELETE FROM task")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=DUMPS, ids=lambda path: f"schema {path.stem}")
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A state.db as an older release left it; `<version>` is the suffix of its only neighbour."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(request.param.read_text())
        connection.execute("PRAGMA journal_mode=WAL")
    return path


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def rows(path: Path, columns_of: Path) -> dict[str, list[tuple[object, ...]]]:
    """Rows by table, but for the schema's version; the tables and columns are those of another file."""
    out: dict[str, list[tuple[object, ...]]] = {}
    with closing(sqlite3.connect(path)) as connection, closing(sqlite3.connect(columns_of)) as other:
        for (table,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = ", ".join(f'"{row[1]}"' for row in other.execute(f"PRAGMA table_info({table})").fetchall())
            out[table] = connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
    out["meta"] = [row for row in out["meta"] if row[0] != "schema_version"]
    return out


def test_what_the_older_release_wrote_is_all_there(old: Path, tmp_path: Path) -> None:
    before = tmp_path / "before.db"
    before.write_bytes(old.read_bytes())
    store = Store(old)
    try:
        assert store.get_meta("schema_version") == str(SCHEMA_VERSION)
        assert audit.verify_chain(store) == (3, "")
        assert [t.run for t in records.tasks(store)] == ["r1", "r2", "r3", "r4"]
        assert records.results(store, ["r1"])["r1"].result == '{"ok": true}'
        assert sorted(records.instances(store)) == ["writer-0", "writer-1"]
    finally:
        store.close()
    assert rows(old, before) == rows(before, before)


def test_its_tables_are_those_of_a_new_one(old: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine
    from sqlmodel import SQLModel

    Store(old).close()
    engine = create_engine(f"sqlite:///{old}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    engine.dispose()


def test_a_copy_of_the_old_one_is_kept_for_its_owner_only(old: Path) -> None:
    found, before = version(old), dump(old)
    store = Store(old, migrations=(*MIGRATIONS, add_mood))
    store.set_meta("later", "1")
    store.close()
    kept = old.with_name(f"state.db.v{found}")
    assert version(old) == NEXT
    assert dump(kept) == before
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert sorted(p.name for p in old.parent.iterdir()) == ["state.db", kept.name]


def test_only_the_steps_that_it_lacks_are_taken_in_order(old: Path) -> None:
    Store(old, migrations=(*MIGRATIONS, add_mood)).close()
    Store(old, migrations=(*MIGRATIONS, add_mood, rename_mood)).close()
    Store(old, migrations=(*MIGRATIONS, add_mood, rename_mood)).close()
    assert version(old) == NEXT + 1
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT DISTINCT temper FROM instance").fetchall() == [("calm",)]
    assert version(old.with_name(f"state.db.v{NEXT}")) == NEXT


def test_who_only_reads_is_told_to_start_the_hub(old: Path) -> None:
    before = dump(old)
    with pytest.raises(StoreError, match=r"older release \(schema \d+, this one has \d+\); start the hub first"):
        Store(old, read_only=True, migrations=(*MIGRATIONS, add_mood))
    assert dump(old) == before
    assert list(old.parent.glob("*.v*")) == []


def test_a_step_that_fails_leaves_the_old_state(old: Path) -> None:
    before = dump(old)
    with pytest.raises(StoreError, match="no such column: missing"):
        Store(old, migrations=(*MIGRATIONS, add_mood, rename_mood, break_off))
    assert dump(old) == before
    Store(old, migrations=(*MIGRATIONS, add_mood)).close()
    assert version(old) == NEXT


def test_a_kill_in_the_middle_leaves_the_old_state(old: Path) -> None:
    before = dump(old)
    code = (
        "import sys; from pathlib import Path; from reconciler.store.store import Store;"
        "from tests.store.test_migrations import MIGRATIONS, be_killed;"
        "Store(Path(sys.argv[1]), migrations=(*MIGRATIONS, be_killed))"
    )
    child = subprocess.run([sys.executable, "-c", code, str(old)], check=False, cwd=Path(__file__).parents[2])
    assert child.returncode == -signal.SIGKILL
    assert dump(old) == before
    Store(old, migrations=(*MIGRATIONS, add_mood)).close()
    assert version(old) == NEXT


def test_without_a_copy_nothing_is_migrated(old: Path) -> None:
    before = dump(old)
    old.with_name(f".state.db.v{version(old)}.new").mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        Store(old, migrations=(*MIGRATIONS, add_mood))
    assert dump(old) == before


def test_a_file_without_a_version_is_of_the_first_release(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMPS[0].read_text())
        connection.execute("DELETE FROM meta WHERE key = 'schema_version'")
        connection.commit()
    Store(path, migrations=(*MIGRATIONS, add_mood)).close()
    assert version(path) == NEXT
    assert path.with_name(f"state.db.v{FIRST_VERSION}").exists()


def test_where_nothing_is_to_migrate_alembic_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from reconciler.store.store import Store;"
        "[Store(Path(sys.argv[1])).close() for _ in range(2)]; print('alembic' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "state.db")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"
    assert [p.name for p in tmp_path.iterdir()] == ["state.db"]
