"""Rows of the log for other programs: JSON lines with which the chain can be followed, or CSV for people's tables."""

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from reconciler.store.audit import COLUMNS, ChainedEntry

FIELDS = ("seq", *COLUMNS, "prev", "hash")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_dict(row: ChainedEntry) -> dict[str, Any]:
    """Every column, in the order of the hash."""
    return {"seq": row.seq, **{c: getattr(row.entry, c) for c in COLUMNS}, "prev": row.prev, "hash": row.hash}


def write_jsonl(rows: Iterable[ChainedEntry], out: TextIO) -> None:
    """One object per line. Raises OSError."""
    out.writelines(show_jsonl(rows))


def write_csv(rows: Iterable[ChainedEntry], out: TextIO) -> None:
    """With a line of names. A text that a spreadsheet would calculate has an apostrophe before it. Raises OSError."""
    out.writelines(show_csv(rows))


def show_jsonl(rows: Iterable[ChainedEntry]) -> Iterator[str]:
    """The lines, one after the other."""
    for row in rows:
        yield json.dumps(as_dict(row), ensure_ascii=False) + "\n"


def show_csv(rows: Iterable[ChainedEntry]) -> Iterator[str]:
    """The same as CSV, with a line of names first."""
    writer = csv.writer(_Echo(), lineterminator="\n")
    yield writer.writerow(FIELDS)
    for row in rows:
        yield writer.writerow(_tame(value) for value in as_dict(row).values())


class _Echo:
    """Hands back what is written, so that a writer of lines becomes a source of them."""

    def write(self, line: str) -> str:
        return line


def _tame(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
