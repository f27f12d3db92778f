"""The audit chain: appends hold, every kind of tampering is named."""

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.store.audit import AuditEntry, append, history, read, tail, verify_chain
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
