"""`audit` on the command line: what people and programs get, and with which exit code."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.api.agents import order_agent
from reconciler.cli.audit import audit_command
from reconciler.core.caller import caller_of_uid
from reconciler.errors import UsageError
from reconciler.store import audit
from reconciler.store.checkpoints import checkpoints
from tests.audit.books import Books
from tests.fakes.fleet import FLEET, SEAL_KEY


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path)
    made.commit("writer", message="First\n\nReviewed-by: Bob <bob@example.org>")
    made.settle()
    made.fleet.store.set_meta("branch", "main")
    (made.fleet.folder / "fleet.json").write_text(json.dumps({"fleet": FLEET, "key": SEAL_KEY.hex()}))
    yield made
    made.kill()


def call(books: Books, *arguments: str) -> Result:
    places = ("--data", str(books.fleet.folder), "--source", str(books.repo.path))
    return CliRunner().invoke(audit_command, [*arguments, *places], standalone_mode=False)


def test_rows_for_programs_have_every_column_so_that_the_chain_can_be_followed(books: Books) -> None:
    rows = json.loads(call(books, "show", "-n", "2", "-o", "json").stdout)
    assert rows[1]["prev"] == rows[0]["hash"]
    assert set(rows[0]) == {"seq", "prev", "hash", *audit.COLUMNS}


def test_without_a_terminal_each_row_is_one_line_with_its_whole_reason(books: Books) -> None:
    rows = json.loads(call(books, "show", "-o", "json").stdout)
    shown = call(books, "show").stdout
    lines = [line for line in shown.splitlines() if line.split()[0].isdigit()]
    assert len(lines) == len(rows)
    assert all(line.rstrip().endswith(row["reason"][:200]) for line, row in zip(lines, rows, strict=True))


def test_a_commit_may_be_named_by_its_distance(books: Books) -> None:
    first = books.repo.git("rev-parse", "HEAD")
    books.commit("writer", "second")
    books.settle()
    assert call(books, "show", "HEAD~1").stdout.startswith(f"revision {first}")


def test_the_log_is_compared_with_what_a_sink_got(books: Books, tmp_path: Path) -> None:
    books.trail.close()
    file = tmp_path / "vault.jsonl"
    file.write_text("".join(f"{kept.checkpoint.document()}\n" for kept in checkpoints(books.fleet.store)))
    verify = ("verify", "--no-containers", "--checkpoints", str(file))
    answer = call(books, *verify)
    assert (answer.return_value, "checkpoints kept elsewhere: " in answer.stdout) == (0, True)
    books.sql("UPDATE audit SET reason = 'nothing' WHERE seq = 3", "DELETE FROM checkpoint")
    books.rehash()
    answer = call(books, *verify)
    assert answer.return_value == 1
    assert "the checkpoint kept elsewhere of row " in answer.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no checkpoint"), ("{\n", "line 1 is no JSON document"), ("\udcff", "cannot be read")],
)
def test_a_file_that_no_sink_wrote_is_refused(books: Books, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "vault.jsonl"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    answer = call(books, "verify", "--no-containers", "--checkpoints", str(file))
    assert isinstance(answer.exception, UsageError)
    assert said in str(answer.exception)


def test_what_is_proven_and_what_not_is_said_and_ends_with_0(books: Books) -> None:
    answer = call(books, "verify", "--no-containers")
    assert answer.return_value == 0
    assert "proven     git notes: 1" in answer.stdout
    assert "unchecked  containers were not looked at" in answer.stdout
    assert "anchored by a note to row " in answer.stdout


def test_a_tampered_row_is_named_and_ends_with_1(books: Books) -> None:
    books.sql("UPDATE audit SET reason = 'nothing' WHERE seq = 3")
    answer = call(books, "verify", "--no-containers")
    assert answer.return_value == 1
    assert "fault      row 3 was changed: its content does not give its hash" in answer.stderr
    assert "the log cannot be trusted: 1 fault" in answer.stderr
    found = json.loads(call(books, "verify", "--no-containers", "-o", "json").stdout)
    assert found["faults"] == [{"seq": 3, "message": "row 3 was changed: its content does not give its hash"}]


def test_only_the_key_that_an_auditor_noted_counts(books: Books) -> None:
    right = (books.fleet.folder / "hub.pub").read_text().strip()
    assert call(books, "verify", "--no-containers", "--public-key", right).return_value == 0
    answer = call(books, "verify", "--no-containers", "--public-key", f"ed25519:{'A' * 43}=")
    assert answer.return_value == 1
    assert f"was signed with another key than the hub's, {right}" in answer.stderr


def test_who_forges_everything_here_is_found_by_the_notes_of_an_older_clone(books: Books, tmp_path: Path) -> None:
    books.repo.git("clone", "--quiet", "--mirror", ".", str(tmp_path / "clone"))
    books.commit("writer", message="Second")
    books.settle()
    there = ("--notes", str(tmp_path / "clone"))
    assert call(books, "verify", "--no-containers", *there).return_value == 0
    books.sql("UPDATE audit SET reason = 'nothing' WHERE seq = 3", "DELETE FROM checkpoint")
    books.rehash()
    books.repo.git("update-ref", "-d", f"refs/notes/reconciler/{FLEET}")
    books.trail.close()
    assert call(books, "verify", "--no-containers").return_value == 0
    answer = call(books, "verify", "--no-containers", *there)
    assert answer.return_value == 1
    assert answer.stderr.startswith("fault      the note of ")


def test_a_commit_is_shown_beside_what_was_done(books: Books) -> None:
    shown = call(books, "show", "main").stdout
    for text in ("Ada <ada@example.org>", "Reviewed-by: Bob", "+++ b/hub.yaml", "note: converged", "agent/writer-0"):
        assert text in shown
    found = json.loads(call(books, "show", "main", "-o", "json").stdout)
    assert found["commit"]["approvals"] == ["Reviewed-by: Bob <bob@example.org>"]
    assert found["rows"][0]["action"] == "accept"


def test_who_did_something_by_hand_and_why_is_in_each_view(books: Books) -> None:
    order_agent(books.fleet.world, "writer", "drain", caller_of_uid(7, "alice", "it leaks"), "")
    assert "uid:7 (alice): asked for: it leaks" in " ".join(call(books, "show").stdout.split())
    (row,) = (
        r
        for r in csv.DictReader(io.StringIO(call(books, "export", "--format", "csv").stdout))
        if r["action"] == "drain"
    )
    assert (row["actor"], row["cause"], row["reason"]) == ("uid:7 (alice)", "operator", "asked for: it leaks")
    page = call(books, "report").stdout
    exceptions = page[page.index("Manual operations") : page.index("Refused plans")]
    assert "operator · uid:7 (alice)" in exceptions
    assert "asked for: it leaks" in exceptions


def test_what_names_nothing_is_an_error_that_says_what_to_write(books: Books) -> None:
    assert isinstance(call(books, "show", "nobody").exception, UsageError)
    assert "2026-11-21" in str(call(books, "export", "--from", "yesterday").exception)
    assert "before --from" in str(call(books, "report", "--from", "1h", "--to", "2h").exception)


def test_an_export_has_all_rows_or_those_of_a_time(books: Books) -> None:
    lines = [json.loads(line) for line in call(books, "export").stdout.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, audit.newest(books.fleet.store)[0] + 1))
    rows = list(csv.DictReader(io.StringIO(call(books, "export", "--format", "csv").stdout)))
    assert [row["hash"] for row in rows] == [line["hash"] for line in lines]
    assert call(books, "export", "--to", "2025-12-31").stdout == ""


def test_a_report_is_one_page_with_who_what_and_the_verdict(books: Books, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert call(books, "report", "--from", "2026-01-01", "-f", str(file)).return_value == 0
    page = file.read_text()
    for text in ("<!DOCTYPE html>", "Reviewed-by: Bob", "writer-0", "proven", "converged; "):
        assert text in page
    assert call(books, "report").stdout.startswith("<!DOCTYPE html>")
    answer = call(books, "report", "-f", str(tmp_path / "nowhere" / "report.html"))
    assert "cannot be written" in str(answer.exception)
