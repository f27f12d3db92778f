"""Reading message_log of traffic.db from outside, read-only: a selection goes in, rows come out, oldest first.

Rows are read a page at a time, so that a long reading never keeps the router from tidying its log.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from reconciler.errors import RouterError

PAGE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows: all that is given must hold. Times are wall clock in epoch seconds, `until` is not included.

    `agent` is an agent or an instance, as sender or as recipient. In `type`, `*` stands for any text. `trace` is a
    trace id.
    """

    agent: str | None = None
    type: str | None = None
    verdict: str | None = None
    code: str | None = None
    id: str | None = None
    trace: str | None = None
    since: float | None = None
    until: float | None = None


def read_newest(path: Path, selection: Selection, count: int) -> Sequence[dict[str, Any]]:
    """The last `count` rows by column. Raises RouterError; a file that is not there too."""
    return _read(path, selection, "ORDER BY seq DESC LIMIT ?", count)[::-1]


def read_page(path: Path, selection: Selection, after_seq: int) -> Sequence[dict[str, Any]]:
    """The first rows after a seq, at most PAGE. Raises RouterError."""
    return _read(path, selection, "AND seq > ? ORDER BY seq LIMIT ?", after_seq, PAGE)


def read_all(path: Path, selection: Selection) -> Iterator[dict[str, Any]]:
    """All rows. Raises RouterError."""
    after_seq = 0
    while page := read_page(path, selection, after_seq):
        yield from page
        after_seq = page[-1]["seq"]


def newest_seq(path: Path) -> int:
    """The seq of the newest row; 0 where there is none. Raises RouterError."""
    return max((row["seq"] for row in read_newest(path, Selection(), 1)), default=0)


def _read(path: Path, selection: Selection, rest: str, *values: int) -> Sequence[dict[str, Any]]:
    where, chosen = _where(selection)
    query = f"SELECT * FROM message_log WHERE {where} {rest}"  # noqa: S608 - made of the constants here
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, (*chosen, *values))]
    except sqlite3.Error as error:
        raise RouterError(f"reading the message log {path}") from error


def _where(selection: Selection) -> tuple[str, Sequence[object]]:
    parts: list[str] = ["1"]
    values: list[object] = []

    def hold(part: str, *of: object) -> None:
        parts.append(part)
        values.extend(of)

    if selection.agent is not None:
        name = selection.agent
        to_it = "recipient=? OR recipient LIKE ? ESCAPE '!' OR ' ' || delivered || ' ' LIKE ? ESCAPE '!'"
        hold(f"(agent=? OR instance=? OR {to_it})", name, name, name, f"{_escape(name)}/%", f"% {_escape(name)} %")
    if selection.type is not None:
        hold("type GLOB ?", selection.type.replace("[", "[[]").replace("?", "[?]"))
    if selection.verdict is not None:
        hold("verdict=?", selection.verdict)
    if selection.code is not None:
        hold("code=?", selection.code)
    if selection.id is not None:
        hold("msg_id=?", selection.id)
    if selection.trace is not None:
        hold("substr(traceparent, 4, 32)=?", selection.trace)
    if selection.since is not None:
        hold("time>=?", selection.since)
    if selection.until is not None:
        hold("time<?", selection.until)
    return " AND ".join(parts), values


def _escape(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
