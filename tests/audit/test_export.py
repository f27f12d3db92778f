"""Rows for other programs: JSON lines from which the chain can be followed, and CSV that a spreadsheet only shows."""

import csv
import io
import json
from dataclasses import replace

from reconciler.audit.export import FIELDS, write_csv, write_jsonl
from reconciler.store.audit import COLUMNS, GENESIS, AuditEntry, ChainedEntry, chain_hash

ENTRY = AuditEntry(time="2026-11-21T12:00:00+00:00", boottime=1.5, fleet="f1", name='a "b",\nc', reason="=1+1")
ROW = ChainedEntry(seq=1, entry=ENTRY, prev=GENESIS, hash=chain_hash(GENESIS, 1, ENTRY))


def test_a_line_of_json_has_everything_that_its_hash_is_over() -> None:
    out = io.StringIO()
    write_jsonl([ROW, replace(ROW, seq=2)], out)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert tuple(first) == FIELDS
    entry = AuditEntry(**{column: first[column] for column in COLUMNS})
    assert chain_hash(first["prev"], first["seq"], entry) == first["hash"]
    assert second["seq"] == 2


def test_csv_keeps_line_breaks_and_tames_formulas() -> None:
    out = io.StringIO()
    write_csv([ROW, replace(ROW, entry=replace(ENTRY, reason="-", actor="@x", name="\tx"))], out)
    first, second = csv.DictReader(io.StringIO(out.getvalue()))
    assert (first["seq"], first["name"], first["reason"]) == ("1", 'a "b",\nc', "'=1+1")
    assert (second["reason"], second["actor"], second["name"]) == ("'-", "'@x", "'\tx")
