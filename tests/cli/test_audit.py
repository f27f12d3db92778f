"""`audit show`: rows of the log, for programs with every column."""

import json
from pathlib import Path

from click.testing import CliRunner

from reconciler.cli.audit import audit_command
from reconciler.home import open_home
from reconciler.store import audit
from reconciler.store.audit import AuditEntry
from reconciler.store.store import FILE_NAME, Store


def test_rows_for_programs_have_every_column_so_that_the_chain_can_be_followed(tmp_path: Path) -> None:
    open_home(tmp_path, create=True)
    store = Store(tmp_path / FILE_NAME)
    entries = [
        AuditEntry(time="2026-11-21T12:00:00+00:00", boottime=1.0, fleet="f", kind="hub", name=name, action="x")
        for name in ("a", "b")
    ]
    with store.transaction():
        audit.append(store, entries)
    store.close()
    arguments = ["show", "-o", "json", "--data", str(tmp_path), "--source", str(tmp_path)]
    rows = json.loads(CliRunner().invoke(audit_command, arguments, standalone_mode=False).stdout)
    assert [row["prev"] for row in rows] == [audit.GENESIS, rows[0]["hash"]]
    assert set(rows[0]) == {"seq", "prev", "hash", *audit.COLUMNS}
