"""The audit chain: appends hold, every kind of tampering is named."""

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.store.audit import (
    GENESIS,
    MOST_FAULTS,
    AuditEntry,
    Choice,
    append,
    choose,
    first_rows,
    has_rows,
    history,
    newest,
    read,
    read_chain,
    tail,
    verify_chain,
)
from reconciler.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db")
    yield opened
    opened.close()


def entry(name: str) -> AuditEntry:
    return AuditEntry(
        time="2026-01-01T00:00:00+00:00", boottime=1.5, fleet="f", kind="agent", name=name, action="create"
    )


def tamper(path: Path, sql: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(sql)
    connection.close()


def test_an_untouched_chain_verifies(store: Store) -> None:
    append(store, [entry(f"a{i}") for i in range(5)])
    append(store, [entry("b")])
    assert verify_chain(store) == (6, "")
    assert [r.entry.name for r in tail(store, 2)] == ["a4", "b"]
    assert [r.seq for r in read(store, after=3)] == [4, 5, 6]


@pytest.mark.parametrize(
    ("sql", "proven", "fault"),
    [
        ("UPDATE audit SET name='x' WHERE seq=3", 2, "row 3 was changed"),
        ("DELETE FROM audit WHERE seq=3", 2, "row 3 is missing"),
        ("UPDATE audit SET prev='00' WHERE seq=4", 3, "row 4 does not follow row 3"),
    ],
)
def test_tampering_is_named(store: Store, sql: str, proven: int, fault: str) -> None:
    append(store, [entry(f"a{i}") for i in range(5)])
    store.close()
    tamper(store.path, sql)
    again = Store(store.path)
    count, message = verify_chain(again)
    again.close()
    assert (count, message[: len(fault)]) == (proven, fault)


def test_texts_that_move_between_columns_change_the_hash(store: Store) -> None:
    from reconciler.store.audit import chain_hash

    left, right = replace(entry("ab"), action="c"), replace(entry("a"), action="bc")
    assert chain_hash("0", 1, left) != chain_hash("0", 1, right)


def test_a_failed_transaction_keeps_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction():
        append(store, [entry("a")])
        raise RuntimeError
    assert read(store) == []


def test_history_is_the_last_rows_about_the_resources_named(store: Store) -> None:
    append(store, [entry("a"), entry("b"), entry("a"), entry("c"), entry("b")])
    assert [r.seq for r in history(store, "agent", ["a", "b"], 3)] == [2, 3, 5]
    assert history(store, "task", ["a"], 3) == []


def test_rows_appended_by_many_threads_are_one_chain(store: Store) -> None:
    threads = [threading.Thread(target=append, args=(store, [entry(f"{n}-{i}") for i in range(5)])) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify_chain(store) == (40, "")


def test_odd_texts_are_kept_as_they_are(store: Store) -> None:
    odd = replace(entry("\n\0'\""), reason="ä" * 500, boottime=0.1 + 0.2)
    append(store, [odd])
    assert read(store)[0].entry == odd
    assert verify_chain(store) == (1, "")


def test_the_newest_row_is_known_by_number_and_hash(store: Store) -> None:
    assert newest(store) == (0, GENESIS)
    append(store, [entry("a"), entry("b")])
    assert newest(store) == (2, read(store)[1].hash)


def test_the_hashes_asked_for_are_those_of_the_rows(store: Store) -> None:
    append(store, [entry(f"a{i}") for i in range(5)])
    assert read_chain(store, [2, 4, 9]).hashes == {seq: read(store)[seq - 1].hash for seq in (2, 4)}


@pytest.mark.parametrize(
    ("sql", "faults"),
    [
        ("UPDATE audit SET name='x' WHERE seq IN (2, 4)", [2, 4]),
        ("DELETE FROM audit WHERE seq IN (2, 4)", [3, 5]),
        ("UPDATE audit SET boottime=NULL, name=x'00' WHERE seq=3", [3]),
        ("UPDATE audit SET name=CAST(x'fffe' AS TEXT) WHERE seq=3", [3]),
        ("UPDATE audit SET reason=hex(zeroblob(5000)) WHERE seq=3", [3]),
        ("UPDATE audit SET hash='' WHERE seq=3", [3, 4]),
    ],
)
def test_every_fault_is_found_once_whatever_was_written(store: Store, sql: str, faults: list[int]) -> None:
    append(store, [entry(f"a{i}") for i in range(6)])
    store.close()
    with sqlite3.connect(store.path) as connection:
        rows = connection.execute("SELECT * FROM audit").fetchall()
        connection.execute("CREATE TABLE loose AS SELECT * FROM audit")
        connection.execute("DROP TABLE audit")
        connection.execute("ALTER TABLE loose RENAME TO audit")
        assert connection.execute("SELECT * FROM audit").fetchall() == rows
        connection.execute(sql)
    connection.close()
    again = Store(store.path)
    reading = read_chain(again)
    again.close()
    assert [fault.seq for fault in reading.faults] == faults
    assert reading.proven < faults[0]


def test_a_log_with_faults_everywhere_names_so_many_and_counts_all(store: Store) -> None:
    append(store, [entry(f"a{i}") for i in range(40)])
    store.close()
    tamper(store.path, "UPDATE audit SET name='x'")
    again = Store(store.path)
    reading = read_chain(again)
    again.close()
    assert (len(reading.faults), reading.count, reading.proven) == (MOST_FAULTS, 40, 0)


def test_long_texts_hash_the_same_when_written_and_when_read(store: Store) -> None:
    append(store, [replace(entry("a"), after="ä" * size) for size in (2047, 2048, 2049, 5000)])
    assert verify_chain(store) == (4, "")


def test_rows_are_chosen_by_everything_that_is_given(store: Store) -> None:
    rows = [replace(entry(name), revision=revision) for name, revision in (("a", "r1"), ("b", "r1"), ("a", "r2%"))]
    append(store, [*rows, replace(rows[0], kind="task", time="2026-01-02T00:00:00+00:00")])

    def chosen(**wanted: object) -> list[int]:
        return [row.seq for row in choose(store, Choice(**wanted))]  # type: ignore[arg-type]

    assert chosen() == [1, 2, 3, 4]
    assert chosen(revision="r1", kind="agent") == [1, 2]
    assert chosen(revision="r2%") == [3]
    assert chosen(revision="%") == []
    assert chosen(names=("a",)) == [1, 3, 4]
    assert chosen(since="2026-01-01T00:00:01+00:00") == [4]
    assert chosen(until="2026-01-02T00:00:00+00:00", after_seq=1) == [2, 3]
    assert [row.seq for row in choose(store, Choice(), 2)] == [3, 4]
    assert has_rows(store, "task", "a")
    assert not has_rows(store, "task", "b")


def test_the_first_row_of_each_value_is_known(store: Store) -> None:
    append(store, [entry("b"), entry("a"), replace(entry("b"), kind="task"), entry("b")])
    assert first_rows(store, "name") == {"a": 2, "b": 1}
    assert first_rows(store, "name", kind="task") == {"b": 3}
    assert first_rows(store, "revision") == {}
    with pytest.raises(ValueError, match="no column 'x'"):
        first_rows(store, "x")


def test_choosing_goes_on_over_pages(store: Store) -> None:
    append(store, [entry(f"a{i}") for i in range(4100)])
    assert [row.seq for row in choose(store, Choice())] == list(range(1, 4101))
