"""What a running hub adds to its log: revisions, checkpoints and notes, each once, whatever happens in between."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.alerts.courier import Courier
from reconciler.alerts.sink import Sent
from reconciler.audit.note import read_note
from reconciler.audit.trail import open_trail
from reconciler.core.caller import Caller
from reconciler.core.checkpoint import read_documents
from reconciler.loop.outbox import Outbox
from reconciler.loop.run import CONFIRMED
from reconciler.settings import OperatorSpec
from reconciler.store import audit
from reconciler.store.checkpoints import checkpoints
from tests.alerts.test_courier import QUICK, FakeSink, until
from tests.audit.books import Books
from tests.fakes.fleet import FLEET, told

ALICE = Caller(proven="uid:7", name="alice", reason="slow")
FEW_ROWS = OperatorSpec.model_validate({"audit": {"checkpointEvery": {"rows": 3}, "notes": False}})


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path)
    yield made
    made.kill()


def accepted(books: Books) -> list[tuple[str, str]]:
    return [(e.name, e.reason) for e in books.fleet.audit() if e.kind == "revision"]


def test_a_revision_is_recorded_before_anything_is_made_of_it_and_once(books: Books) -> None:
    first = books.commit("writer", message="First")
    books.settle()
    books.kill()
    books.begin()
    books.settle()
    second = books.commit("writer", message="Second")
    books.settle()
    assert accepted(books) == [(first, "the first revision on record"), (second, f"after {first[:12]}")]
    row = audit.read(books.fleet.store, limit=1)[0].entry
    assert (row.kind, row.actor, row.revision) == ("revision", "Ada <ada@example.org>", first)
    assert json.loads(row.after)["subject"] == "First"


def test_an_applied_commit_gets_a_note_with_outcome_plan_and_checkpoint(books: Books) -> None:
    commit = books.commit("writer")
    books.settle()
    [(noted, text)] = books.notes.read_all().items()
    note = read_note(text)
    assert note is not None
    assert (noted, note.commit, note.fleet, note.outcome) == (commit, commit, FLEET, "converged")
    [kept] = [c for c in checkpoints(books.fleet.store) if c.noted]
    assert (kept.noted, kept.checkpoint.seq, kept.checkpoint.hash) == (commit, note.seq, note.hash)
    rows = [e for e in books.fleet.audit() if e.plan_digest]
    assert note.plan_digest == rows[0].plan_digest
    assert note.changes == f"{sum(e.outcome == 'applied' for e in rows)} applied, 0 failed"


def test_a_note_is_written_once_until_it_is_to_be_renewed(books: Books) -> None:
    commit = books.commit("writer")
    books.settle()
    before = books.notes.read_all()[commit]
    books.append("row")
    books.settle()
    books.kill()
    books.begin()
    books.settle()
    assert books.notes.read_all()[commit] == before
    books.fleet.clock.advance(3601)
    books.settle()
    old, new = read_note(before), read_note(books.notes.read_all()[commit])
    assert old is not None
    assert new is not None
    assert new.seq > old.seq
    books.fleet.clock.advance(3601)
    books.settle()
    assert read_note(books.notes.read_all()[commit]) == new


def test_a_revision_that_does_not_come_out_says_so_after_a_while_and_then_that_it_did(books: Books) -> None:
    commit = books.commit("writer")
    books.fleet.runtime.forget_image("agents/base:1")
    books.trail.look(books.fleet.run())
    assert books.notes.read_all() == {}
    books.fleet.clock.advance(61)
    books.trail.look(books.fleet.run())
    first = read_note(books.notes.read_all()[commit])
    assert first is not None
    assert first.outcome in ("failed", "in progress")
    books.fleet.runtime.add_image("agents/base:1", "sha256:base1")
    books.fleet.clock.advance(600)
    books.settle()
    last = read_note(books.notes.read_all()[commit])
    assert last is not None
    assert last.outcome == "converged"


def test_going_back_is_a_row_with_who_and_why_and_the_log_still_proves_itself(books: Books) -> None:
    good = books.commit("writer", message="First")
    books.settle()
    bad = books.commit("writer", "reader", message="Second")
    books.settle()
    books.fleet.loop.roll_back("fleet", "HEAD~1", ALICE)
    books.settle()
    row = [e for e in books.fleet.audit() if e.kind == "revision"][-1]
    assert (row.name, row.actor, row.cause) == (good, "uid:7 (alice)", "operator")
    assert row.reason == f"rolled back to {good[:12]} by uid:7 (alice): slow; after {bad[:12]}"
    assert books.faults() == []


def test_a_commit_that_was_skipped_and_then_dropped_from_history_is_explained(books: Books) -> None:
    good = books.commit("writer", message="First")
    books.settle()
    bad = books.commit("writer", "reader", message="Second")
    books.settle()
    books.fleet.loop.roll_back("fleet", "HEAD~1", ALICE)
    books.settle()
    books.repo.git("reset", "-q", "--hard", good)
    books.commit("writer", "other", message="Third")
    confirm = books.fleet.run().plan.refused[0].confirm
    books.fleet.store.set_meta(CONFIRMED, confirm)
    books.settle()
    assert accepted(books)[-1][1] == f"rewritten: it does not descend from {bad[:12]}, which was rolled back"
    assert books.faults() == []


def test_a_note_does_not_call_a_commit_converged_of_which_a_part_was_rolled_back(books: Books) -> None:
    books.commit("writer", message="First")
    books.settle()
    bad = books.commit("writer", "reader", message="Second")
    books.settle()
    books.fleet.loop.roll_back("agent/reader", "HEAD~1", ALICE)
    books.settle()
    note = read_note(books.notes.read_all()[bad])
    assert note is not None
    assert note.outcome == "converged, but for what was rolled back"
    books.fleet.loop.clear_rollback("agent/reader", ALICE)
    books.settle()
    note = read_note(books.notes.read_all()[bad])
    assert note is not None
    assert note.outcome == "converged"


def test_a_note_that_cannot_be_written_is_a_condition_and_comes_later(books: Books) -> None:
    commit = books.commit("writer")
    lock = books.repo.path / ".git/refs/notes/reconciler" / f"{FLEET}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    books.settle()
    assert "writing the note of" in told(books.settle())["AuditUnanchored"]
    lock.unlink()
    books.fleet.clock.advance(61)
    books.settle()
    assert "AuditUnanchored" not in told(books.settle())
    assert list(books.notes.read_all()) == [commit]


def test_a_hub_that_is_killed_between_the_note_and_its_record_writes_it_again(books: Books) -> None:
    commit = books.commit("writer")
    books.settle()
    books.sql("DELETE FROM meta WHERE key = 'noted'", "UPDATE checkpoint SET noted = ''")
    books.kill()
    books.begin()
    books.settle()
    assert list(books.notes.read_all()) == [commit]
    assert [c.noted for c in checkpoints(books.fleet.store) if c.noted] == [commit]
    assert books.faults() == []


def test_a_plain_directory_has_no_notes_but_checkpoints(books: Books) -> None:
    books.commit("writer")
    shutil.rmtree(books.repo.path / ".git")
    books.kill()
    books.begin()
    report = books.settle()
    books.trail.close()
    assert report.revision.startswith("worktree:")
    assert checkpoints(books.fleet.store) != []
    assert [text.partition(":")[0] for text in books.verify().unchecked] == [
        "revisions of plain directories, which no history can prove"
    ]
    assert books.faults() == []


def test_checkpoints_come_after_so_many_rows_after_so_long_and_at_the_end(tmp_path: Path) -> None:
    books = Books(tmp_path, FEW_ROWS)

    def signed() -> list[int]:
        return [kept.checkpoint.seq for kept in checkpoints(books.fleet.store)]

    books.append("1", "2")
    books.trail.look(None)
    assert signed() == []
    books.append("3")
    books.trail.look(None)
    assert signed() == [3]
    books.append("4")
    books.fleet.clock.advance(59)
    books.trail.look(None)
    assert signed() == [3]
    books.fleet.clock.advance(1)
    books.trail.look(None)
    assert signed() == [3, 4]
    books.fleet.clock.advance(600)
    books.trail.look(None)
    assert signed() == [3, 4]
    books.append("5")
    books.end()
    books.begin()
    assert signed() == [3, 4, 5]
    books.kill()


def test_a_key_that_cannot_be_read_is_a_condition_and_stops_nothing(books: Books) -> None:
    (books.fleet.folder / "hub.key").write_text("no key")
    books.commit("writer")
    books.settle()
    assert "hub.key" in told(books.settle())["AuditUnanchored"]
    (books.fleet.folder / "hub.key").unlink()
    books.fleet.clock.advance(61)
    books.settle()
    assert "AuditUnanchored" not in told(books.settle())
    assert checkpoints(books.fleet.store) != []


VAULT = OperatorSpec.model_validate(
    {
        "audit": {"checkpointEvery": {"rows": 1}, "notes": False, "sink": "vault"},
        "sinks": {"vault": {"command": {"argv": ["/bin/vault"]}}},
    }
)


def test_a_sink_gets_each_checkpoint_also_those_made_while_it_was_away(tmp_path: Path) -> None:
    books, away, back = Books(tmp_path, VAULT), FakeSink([Sent(fault="away")]), FakeSink()

    def work(sink: FakeSink, *names: str) -> Outbox:
        outbox = Outbox(books.fleet.store)
        outbox.start({"vault": Courier("vault", sink, patience=QUICK, on_done=outbox.arrived)})
        trail = open_trail(books.fleet.world, str(books.repo.path), outbox)
        for name in names:
            books.append(name)
            trail.look(None)
        return outbox

    work(away, "1", "2").close()
    assert away.taken == []
    books.kill()
    books.begin()
    outbox = work(back, "3")
    until(lambda: len(back.taken) == 3)
    outbox.close()
    kept = [each.checkpoint for each in checkpoints(books.fleet.store)]
    assert list(read_documents("\n".join(back.taken))) == kept
    assert [checkpoint.seq for checkpoint in kept] == [1, 2, 3]
    assert books.verify(elsewhere=kept).faults == ()
    books.kill()
