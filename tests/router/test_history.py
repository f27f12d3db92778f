"""Reading the message log from outside: what a selection finds, in order, while the router goes on writing."""

import sqlite3
from pathlib import Path

import pytest

from reconciler.errors import RouterError
from reconciler.router import history
from reconciler.router.history import Selection, read_all, read_newest, read_page
from reconciler.router.traffic import Row, TrafficDatabase

TRACE = "0af7651916cd43dd8448eb211c80319c"


def row(n: int, **more: object) -> Row:
    fields: dict[str, object] = {"instance": "writer-0", "agent": "writer", "verdict": "allow", "msg_id": f"m{n}"}
    return Row(time=float(n), **{**fields, **more})  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    database = TrafficDatabase(tmp_path / "traffic.db")
    rows = [
        row(1, type="review.request", recipient="reviewer", delivered="reviewer-1"),
        row(2, type="review.note", recipient="reviewer/reviewer-0", delivered="reviewer-0"),
        row(3, type="docs.published", recipient="topic:docs.new", delivered="archive-0 reviewer-1"),
        row(4, verdict="deny", code="forbidden", type="review.note", recipient="writer_2", reason="no"),
        row(5, instance="checker-0", agent="checker", verdict="deny", code="rate_limited", count=37),
        row(6, instance="checker-0", agent="checker", type="finding.raised", traceparent=f"00-{TRACE}-{'1' * 16}-01"),
    ]
    database.commit(rows, [])
    database.close()
    return tmp_path / "traffic.db"


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (Selection(), [1, 2, 3, 4, 5, 6]),
        (Selection(agent="checker"), [5, 6]),
        (Selection(agent="checker-0"), [5, 6]),
        (Selection(agent="reviewer"), [1, 2]),
        (Selection(agent="reviewer-1"), [1, 3]),
        (Selection(agent="archive-0"), [3]),
        (Selection(agent="writer_"), []),
        (Selection(agent="%"), []),
        (Selection(type="review.note"), [2, 4]),
        (Selection(type="review.*"), [1, 2, 4]),
        (Selection(type="review.?ote"), []),
        (Selection(type="[r]eview.note"), []),
        (Selection(verdict="deny"), [4, 5]),
        (Selection(code="rate_limited"), [5]),
        (Selection(id="m4"), [4]),
        (Selection(trace=TRACE), [6]),
        (Selection(since=3.0, until=5.0), [3, 4]),
        (Selection(agent="writer", verdict="allow", since=2.0), [2, 3]),
    ],
)
def test_a_selection_finds_what_fits_all_of_it_oldest_first(log: Path, selection: Selection, found: list[int]) -> None:
    assert [r["seq"] for r in read_all(log, selection)] == found
    assert [r["seq"] for r in read_newest(log, selection, 2)] == found[-2:]


def test_a_row_has_all_its_columns(log: Path) -> None:
    (found,) = read_newest(log, Selection(), 1)
    assert (found["msg_id"], found["type"], found["count"], found["payload"]) == ("m6", "finding.raised", 1, None)


def test_many_rows_come_page_by_page(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PAGE", 4)
    assert [r["seq"] for r in read_page(log, Selection(), 1)] == [2, 3, 4, 5]
    assert len(list(read_all(log, Selection()))) == 6


def test_the_writer_goes_on_while_somebody_reads(log: Path) -> None:
    rows = read_all(log, Selection())
    next(rows)
    writer = TrafficDatabase(log)
    writer.commit([row(7)], [])
    writer.close()
    assert [r["seq"] for r in read_page(log, Selection(), 6)] == [7]


def test_a_log_that_is_not_there_or_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="reading the message log"):
        read_newest(tmp_path / "traffic.db", Selection(), 1)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "other.db").close()
    with pytest.raises(RouterError, match="reading the message log"):
        read_newest(tmp_path / "other.db", Selection(), 1)
