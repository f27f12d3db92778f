"""usage.db: what was used outlives the process that counted it."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from reconciler.egress.ledger import DAY_S, FILE_NAME, KEPT_S, Ledger, Row, day_of, read_usage
from reconciler.errors import StoreError
from tests.egress.places import until

NOW = 1_795_000_000.0


def row(**more: Any) -> Row:
    values: dict[str, Any] = {
        "time": NOW,
        "agent": "writer",
        "instance": "writer-0",
        "run": "r1",
        "task": "changelog",
        "provider": "anthropic",
        "model": "opus",
        "status": 200,
        "input": 10,
        "output": 5,
        "cache_read": 3,
        "cache_write": 2,
        "is_estimate": False,
        "cost": 0.25,
        "first_byte_ms": 1.5,
        "whole_ms": 20.0,
    }
    return Row(**{**values, **more})


def test_rows_are_there_for_the_next_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    rows = [row(), row(run="r2", cost=1.0), row(agent="reader", run=None, task=None), row(time=NOW - DAY_S)]
    for one in rows:
        ledger.add(one)
    ledger.close()
    assert list(read_usage(tmp_path, 0.0)) == rows
    assert list(read_usage(tmp_path, NOW)) == rows[:3]
    again = Ledger(tmp_path)
    today = again.sum_day(day_of(NOW))
    assert {agent: (s.requests, s.tokens, s.cost) for agent, s in today.items()} == {
        "writer": (2, 40, 1.25),
        "reader": (1, 20, 0.25),
    }
    assert (again.sum_run("r1").requests, again.sum_run("r1").tokens, again.sum_run("none").tokens) == (2, 40, 0)
    again.close()
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


def test_denials_that_are_alike_are_one_row_with_their_number_and_count_as_no_use(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    denied = row(status=0, input=0, output=0, cache_read=0, cache_write=0, cost=0.0, denied="no", engine="embedded")
    for one in (denied, denied, row(denied="other"), denied):
        ledger.add_denial(one)
    ledger.settle_denials()
    ledger.add_denial(denied)
    ledger.add(row())
    ledger.close()
    assert [(r.denied, r.count) for r in read_usage(tmp_path, 0.0)] == [("no", 3), ("other", 1), ("", 1), ("no", 1)]
    again = Ledger(tmp_path)
    assert [(s.requests, s.tokens) for s in again.sum_day(day_of(NOW)).values()] == [(1, 20)]
    assert again.sum_run("r1").requests == 1
    again.close()


def test_a_file_of_an_earlier_release_is_read_and_goes_on(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    connection = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    for name in ("denied", "engine", "policy_revision", "cached", "count"):
        connection.execute(f"ALTER TABLE usage DROP COLUMN {name}")
    names = [name for _, name, *_ in connection.execute("PRAGMA table_info(usage)") if name != "seq"]
    values = [getattr(row(), name) for name in names]
    connection.execute(f"INSERT INTO usage ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", values)
    connection.close()
    assert list(read_usage(tmp_path, 0.0)) == [row()]
    ledger = Ledger(tmp_path)
    ledger.add(row(engine="embedded", cached=True))
    ledger.close()
    assert list(read_usage(tmp_path, 0.0)) == [row(), row(engine="embedded", cached=True)]


def test_without_a_file_nothing_was_used(tmp_path: Path) -> None:
    assert read_usage(tmp_path, 0.0) == []


def test_rows_of_long_ago_go(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(row(time=NOW - KEPT_S - 1))
    ledger.add(row())
    ledger.forget_old(NOW)
    ledger.close()
    assert [r.time for r in read_usage(tmp_path, 0.0)] == [NOW]


def test_while_it_cannot_be_written_rows_wait(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, busy_s=0.01)
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    ledger.add(row())
    until(lambda: "locked" in ledger.fault)
    other.execute("COMMIT")
    other.close()
    ledger.flush()
    until(lambda: len(read_usage(tmp_path, 0.0)) == 1)
    until(lambda: ledger.fault == "")
    ledger.close()


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="opening"):
        Ledger(tmp_path)
