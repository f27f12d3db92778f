"""traffic.db: a file of an older release is opened forward, whole or not at all."""

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from reconciler.errors import StoreError
from reconciler.router import traffic
from reconciler.router.history import Selection, read_newest
from reconciler.router.inbox import read_inbox
from reconciler.router.traffic import VERSION, InboxEntry, Row, TrafficDatabase

FORMAT_1 = """
CREATE TABLE message_log (
    seq INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    instance TEXT NOT NULL,
    agent TEXT NOT NULL,
    verdict TEXT NOT NULL,
    code TEXT, step TEXT, reason TEXT,
    msg_id TEXT, type TEXT, pattern TEXT, recipient TEXT, delivered TEXT,
    correlation_id TEXT, sender_seq INTEGER,
    engine TEXT, policy_revision TEXT, cached INTEGER, config_digest TEXT,
    size INTEGER, payload TEXT, payload_sha256 TEXT, traceparent TEXT,
    count INTEGER NOT NULL);
CREATE TABLE hub_inbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    instance TEXT NOT NULL,
    agent TEXT NOT NULL,
    type TEXT NOT NULL,
    msg_id TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (instance, msg_id));
INSERT INTO message_log (time, instance, agent, verdict, msg_id, count) VALUES (1.5, 'a-0', 'a', 'allow', 'old', 1);
INSERT INTO hub_inbox (time, instance, agent, type, msg_id, body) VALUES (1.5, 'a-0', 'a', 'task.started', 'm', '{}');
PRAGMA user_version=1;
"""


def make_format_1(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(FORMAT_1)


def columns(path: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA table_info(message_log)").fetchall()


def version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_a_file_of_the_format_before_keeps_its_rows_and_takes_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    make_format_1(path)
    database = TrafficDatabase(path)
    assert database.inbox_seq == 1
    entry = InboxEntry(time=2.0, instance="a-0", agent="a", type="task.started", msg_id="n", body="{}")
    database.commit([Row(time=2.5, instance="a-0", agent="a", verdict="deny", msg_id="new", decided_at=2.25)], [entry])
    database.close()
    rows = read_newest(path, Selection(), 10)
    assert [(r["msg_id"], r["time"], r["count"], r["decided_at"]) for r in rows] == [
        ("old", 1.5, 1, None),
        ("new", 2.5, 1, 2.25),
    ]
    assert [(m.seq, m.id) for m in read_inbox(path, 0, 10)] == [(1, "m"), (2, "n")]
    TrafficDatabase(path).close()
    assert version(path) == VERSION


def test_a_file_opened_forward_has_the_columns_of_a_new_one_in_their_order(tmp_path: Path) -> None:
    make_format_1(tmp_path / "old.db")
    for name in ("old.db", "new.db"):
        TrafficDatabase(tmp_path / name).close()
    names = [column[1] for column in columns(tmp_path / "new.db")]
    assert columns(tmp_path / "old.db") == columns(tmp_path / "new.db")
    assert names == ["seq", *Row.__struct_fields__]


def test_what_cannot_be_opened_forward_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "traffic.db"
    make_format_1(path)
    before = columns(path)
    monkeypatch.setattr(traffic, "VERSION", 3)
    monkeypatch.setattr(traffic, "_STEPS", {**traffic._STEPS, 3: "ALTER TABLE nowhere ADD COLUMN x;"})
    with pytest.raises(StoreError, match="opening the message log"):
        TrafficDatabase(path)
    assert (version(path), columns(path)) == (1, before)
    monkeypatch.undo()
    TrafficDatabase(path).close()
    assert version(path) == VERSION


def test_a_log_that_was_not_opened_forward_yet_can_be_read(tmp_path: Path) -> None:
    make_format_1(tmp_path / "traffic.db")
    (row,) = read_newest(tmp_path / "traffic.db", Selection(since=0.0, until=time.time()), 10)
    assert row["msg_id"] == "old"
