"""What auditors read over the operator plane is what the commands of `audit` say on the hub's host."""

import json

import pytest

from reconciler.api.access import RefusedRequest
from reconciler.cli.audit_plane import FleetAuditReader
from tests.audit.books import Books
from tests.cli.test_audit import books, call

__all__ = ["books"]


@pytest.fixture
def reader(books: Books) -> FleetAuditReader:
    return FleetAuditReader(source=str(books.repo.path), data=str(books.fleet.folder), operator=None)


def test_an_export_is_that_of_the_command(books: Books, reader: FleetAuditReader) -> None:
    for form in ("jsonl", "csv"):
        assert "".join(reader.export(form, "", "")) == call(books, "export", "--format", form).stdout
    assert "".join(reader.export("jsonl", "2001-01-01", "2001-01-02")) == ""


def test_what_is_shown_is_that_of_the_command(books: Books, reader: FleetAuditReader) -> None:
    for what in ("agent/writer", books.fleet.loop.revisions.applied):
        assert dict(reader.show(what)) == json.loads(call(books, "show", what, "-o", "json").stdout)
    assert reader.show("")["rows"] == json.loads(call(books, "show", "-o", "json").stdout)


def test_faults_are_named_and_the_page_says_them(books: Books, reader: FleetAuditReader) -> None:
    books.sql("UPDATE audit SET reason = 'nothing' WHERE seq = 3")
    assert "row 3 was changed: its content does not give its hash" in [f["message"] for f in reader.verify()["faults"]]
    page = reader.report("", "")
    assert page.startswith("<!DOCTYPE html>")
    assert "row 3 was changed" in page


@pytest.mark.parametrize(("since", "until"), [("yesterday", ""), ("1h", "24h"), ("2026-11-21", "2026-11-20")])
def test_a_span_that_is_none_is_refused(reader: FleetAuditReader, since: str, until: str) -> None:
    for ask in (lambda: reader.export("jsonl", since, until), lambda: reader.report(since, until)):
        with pytest.raises(RefusedRequest, match="from and to take") as refused:
            ask()
        assert refused.value.status == 400


def test_what_the_log_does_not_know_is_refused(reader: FleetAuditReader) -> None:
    with pytest.raises(RefusedRequest, match="is no commit, agent or task"):
        reader.show("nobody")


def test_the_whole_log_is_read_for_one_at_a_time(reader: FleetAuditReader) -> None:
    with reader._alone(), pytest.raises(RefusedRequest) as refused:
        reader.verify()
    assert refused.value.status == 503
    reader.verify()
