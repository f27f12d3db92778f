"""A new state.db is there whole or not at all, so that a command which looks while a hub starts finds nothing odd."""

from pathlib import Path

import pytest
from sqlalchemy import event
from sqlmodel import SQLModel

from reconciler.errors import StoreError
from reconciler.store import records
from reconciler.store.store import Store


def test_nobody_finds_a_state_db_whose_tables_are_still_being_made(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    seen: list[bool] = []

    def look(*_: object, **__: object) -> None:
        seen.append(path.exists())

    for moment in ("before_create", "after_create"):
        event.listen(SQLModel.metadata, moment, look)
    try:
        Store(path).close()
    finally:
        for moment in ("before_create", "after_create"):
            event.remove(SQLModel.metadata, moment, look)
    assert seen[:2] == [False, False]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["state.db"]


def test_what_a_killed_start_left_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / ".state.db.new").write_bytes(b"half")
    store = Store(tmp_path / "state.db")
    assert records.instances(store) == {}
    store.close()


def test_a_state_db_is_not_made_by_looking_for_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"opening .*state\.db failed"):
        Store(tmp_path / "state.db", read_only=True)
    assert list(tmp_path.iterdir()) == []
