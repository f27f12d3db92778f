"""state.db: durable transactions, read-only opening, and every failure of the disk as a StoreError."""

import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import StoreError
from reconciler.store.migrations import SCHEMA_VERSION
from reconciler.store.store import Store
from reconciler.store.tables import MetaRow


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db")
    yield opened
    opened.close()


def run_sql(path: Path, sql: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(sql)
    connection.close()


def pragma(store: Store, text: str) -> None:
    with store.read() as session:
        session.connection().exec_driver_sql(f"PRAGMA {text}")


def test_what_a_transaction_wrote_is_there_after_reopening(store: Store) -> None:
    store.set_meta("a", "1")
    store.close()
    again = Store(store.path)
    assert again.get_meta("a") == "1"
    assert again.get_meta("b") is None
    assert again.get_meta("schema_version") == str(SCHEMA_VERSION)
    again.close()


def test_a_transaction_that_raises_keeps_nothing_of_all_that_joined_it(store: Store) -> None:
    class OddError(BaseException):
        pass

    with pytest.raises(OddError), store.transaction():
        store.set_meta("a", "1")
        with store.transaction():
            store.set_meta("b", "1")
        raise OddError
    assert (store.get_meta("a"), store.get_meta("b")) == (None, None)
    store.set_meta("c", "1")
    assert store.get_meta("c") == "1"


def test_questions_inside_a_transaction_see_what_it_wrote(store: Store) -> None:
    with store.transaction():
        store.set_meta("a", "1")
        assert store.get_meta("a") == "1"


def test_threads_take_turns(store: Store) -> None:
    def count() -> None:
        for _ in range(20):
            with store.transaction():
                store.set_meta("n", str(int(store.get_meta("n") or "0") + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get_meta("n") == "80"


def test_a_read_only_store_answers_while_the_writer_works_and_writes_nothing(store: Store) -> None:
    store.set_meta("a", "1")
    reader = Store(store.path, read_only=True)
    assert reader.get_meta("a") == "1"
    store.set_meta("a", "2")
    assert reader.get_meta("a") == "2"
    with pytest.raises(StoreError, match="readonly"):
        reader.set_meta("a", "3")
    reader.close()


def test_a_read_only_store_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open"):
        Store(tmp_path / "state.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_a_newer_release_is_refused_with_what_to_do(store: Store) -> None:
    store.set_meta("schema_version", str(SCHEMA_VERSION + 1))
    store.close()
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"newer release \(schema \d+, this one knows \d+\); start that"):
            Store(store.path, read_only=read_only)


def test_a_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database" * 100)
    for read_only in (False, True):
        with pytest.raises(StoreError, match="file is not a database"):
            Store(tmp_path / "state.db", read_only=read_only)


def test_a_version_that_is_no_number_is_a_store_error(store: Store) -> None:
    store.set_meta("schema_version", "one")
    store.close()
    with pytest.raises(StoreError, match="has the schema version 'one'"):
        Store(store.path)


def test_a_folder_that_is_not_there_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file or directory"):
        Store(tmp_path / "missing" / "state.db")


def test_an_answer_is_remembered_until_anybody_writes(store: Store) -> None:
    asked: list[int] = []

    def ask() -> int:
        asked.append(1)
        return len(asked)

    assert [store.remembered("a", ask), store.remembered("a", ask), store.remembered("b", ask)] == [1, 1, 2]
    store.set_meta("x", "1")
    assert store.remembered("a", ask) == 3
    other = Store(store.path)
    other.set_meta("x", "2")
    other.close()
    assert store.remembered("a", ask) == 4
    with store.transaction():
        assert store.remembered("a", ask) == 5
        assert store.remembered("a", ask) == 6
    with pytest.raises(RuntimeError), store.transaction():
        store.set_meta("x", "3")
        raise RuntimeError
    assert store.remembered("a", ask) == 7


def test_a_file_that_was_removed_or_replaced_is_not_written_any_more(store: Store) -> None:
    store.set_meta("a", "1")
    content = store.path.read_bytes()
    store.path.unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match="was removed or replaced while it was in use"):
            store.set_meta("a", "2")
        store.path.write_bytes(content)


def test_only_its_owner_may_read_it(store: Store) -> None:
    store.set_meta("a", "1")
    modes = {stat.S_IMODE(p.stat().st_mode) for p in store.path.parent.iterdir()}
    assert modes == {0o600}


def test_a_full_disk_is_a_store_error_that_says_so_and_keeps_nothing(store: Store) -> None:
    store.set_meta("a", "1")
    pragma(store, "max_page_count=1")
    with pytest.raises(StoreError, match="database or disk is full"), store.transaction():
        store.set_meta("a", "2")
        store.set_meta("big", "x" * 500_000)
    assert store.get_meta("a") == "1"
    pragma(store, "max_page_count=1000000")
    store.set_meta("big", "x" * 500_000)
    assert len(store.get_meta("big") or "") == 500_000


def test_another_writer_is_a_store_error_after_a_while(store: Store) -> None:
    pragma(store, "busy_timeout=20")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="database is locked"):
        store.set_meta("a", "1")
    other.execute("ROLLBACK")
    other.close()
    store.set_meta("a", "1")
    assert store.get_meta("a") == "1"


def test_a_table_that_is_gone_is_a_store_error(store: Store) -> None:
    store.close()
    run_sql(store.path, "DROP TABLE meta")
    with pytest.raises(StoreError, match="no such table"):
        Store(store.path, read_only=True)


def test_what_sqlite_cannot_hold_is_a_store_error(store: Store) -> None:
    from reconciler.store import records
    from reconciler.store.records import ResultRecord

    with pytest.raises(StoreError):
        records.put_result(store, ResultRecord(run="r", exit_code=2**70))
    with pytest.raises(StoreError):
        store.set_meta("a", "half \ud800 a character")


def test_what_a_session_changed_inside_a_transaction_is_of_it(store: Store) -> None:
    with store.transaction(), store.read() as session:
        session.add(MetaRow(key="a", value="1"))
        assert store.get_meta("a") == "1"
        with store.read() as same:
            assert same is session
    assert store.get_meta("a") == "1"
    with pytest.raises(ZeroDivisionError), store.transaction(), store.read() as session:
        session.add(MetaRow(key="b", value="1"))
        raise ZeroDivisionError
    assert store.get_meta("b") is None
