"""Rows of the log for other programs: JSON lines with which the chain can be followed, or CSV for people's tables."""

import csv
import json
from collections.abc import Iterable
from typing import Any, TextIO

from reconciler.store.audit import COLUMNS, ChainedEntry

FIELDS = ("seq", *COLUMNS, "prev", "hash")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_dict(row: ChainedEntry) -> dict[str, Any]:
    """Every column, in the order of the hash."""
    return {"seq": row.seq, **{c: getattr(row.entry, c) for c in COLUMNS}, "prev": row.prev, "hash": row.hash}


def write_jsonl(rows: Iterable[ChainedEntry], out: TextIO) -> None:
    """One object per line. Raises OSError."""
    for row in rows:
        out.write(json.dumps(as_dict(row), ensure_ascii=False) + "\n")


def write_csv(rows: Iterable[ChainedEntry], out: TextIO) -> None:
    """With a line of names. A text that a spreadsheet would calculate has an apostrophe before it. Raises OSError."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in rows:
        writer.writerow(_tame(value) for value in as_dict(row).values())


def _tame(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
