"""`audit verify`: what is untouched agrees; whoever changes rows, hashes, checkpoints, notes or history is named."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.audit.note import read_note
from reconciler.audit.signing import open_signer
from reconciler.core.checkpoint import Checkpoint
from reconciler.source.notes import notes_ref
from reconciler.store import audit
from reconciler.store.checkpoints import checkpoints
from tests.audit.books import Books
from tests.fakes.fleet import FLEET, put_beside


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Books:
    """Two revisions, each applied and noted; some rows since then are in a checkpoint only, and two in none."""
    made = Books(tmp_path_factory.mktemp("original"))
    made.commit("writer", message="First")
    made.settle()
    made.commit("writer", "reviewer", message="Second")
    made.settle()
    made.fleet.runtime.crash("writer-0")
    made.settle()
    made.trail.close()
    made.append("later-1", "later-2")
    made.kill()
    return made


@pytest.fixture
def books(original: Books, tmp_path: Path) -> Iterator[Books]:
    made = original.copy(tmp_path)
    yield made
    made.kill()


def rows(books: Books) -> int:
    return audit.newest(books.fleet.store)[0]


def noted_row(books: Books) -> int:
    """The newest row that a note anchors."""
    notes = [read_note(text) for text in books.notes.read_all().values()]
    return max(note.seq for note in notes if note is not None)


def test_what_nobody_touched_is_proven_and_what_is_anchored_is_said(books: Books) -> None:
    verdict = books.verify()
    assert verdict.faults == ()
    assert verdict.unchecked == ()
    assert [text.split(":")[0] for text in verdict.proven] == [
        "rows, each following from the one before",
        "signed checkpoints",
        "applied revisions in the history of main",
        "git notes",
        "containers, each explained by a revision",
    ]
    assert 0 < noted_row(books) == verdict.by_note < verdict.by_checkpoint == rows(books) - 2
    assert verdict.anchored == (
        f"anchored by a note to row {verdict.by_note}, by a signed checkpoint to row {verdict.by_checkpoint}; "
        "2 rows not yet"
    )


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE audit SET reason='nothing' WHERE seq=3", ["row 3 was changed: its content does not give its hash"]),
        ("UPDATE audit SET boottime=0 WHERE seq=4", ["row 4 was changed: its content does not give its hash"]),
        ("UPDATE audit SET actor=CAST(x'ff' AS TEXT) WHERE seq=3", ["row 3 was changed"]),
        ("UPDATE audit SET hash='00' WHERE seq=3", ["row 3 was changed", "row 4 does not follow row 3"]),
        ("DELETE FROM audit WHERE seq=3", ["row 3 is missing: the next row is 4"]),
        ("DELETE FROM audit WHERE seq BETWEEN 3 AND 5", ["rows 3 to 5 are missing: the next row is 6"]),
        ("DELETE FROM audit WHERE seq=1", ["row 1 is missing: the next row is 2"]),
    ],
)
def test_a_row_that_was_changed_or_dropped_is_named(books: Books, statement: str, said: list[str]) -> None:
    books.sql(statement)
    found = books.faults()
    assert [text[: len(wanted)] for text, wanted in zip(found, said, strict=False)] == said


def test_rows_in_another_order_are_named(books: Books) -> None:
    books.sql(*(f"UPDATE audit SET seq={new} WHERE seq={old}" for old, new in ((3, -1), (4, 3), (-1, 4))))
    found = books.faults()
    assert found[0] == "row 3 does not follow row 2 but row 4: rows were put in another order"


def test_a_tail_that_was_cut_off_is_named_by_the_checkpoint_that_knew_it(books: Books) -> None:
    signed = books.verify().by_checkpoint
    books.sql(f"DELETE FROM audit WHERE seq >= {signed}")
    [found] = books.faults()
    assert found.startswith(f"the log ends at row {signed - 1}, but a checkpoint of ")
    assert found.endswith(f" is of row {signed}: its tail was cut off")


def test_a_tail_cut_off_with_its_checkpoints_is_named_by_the_note(books: Books) -> None:
    noted = noted_row(books)
    books.sql(f"DELETE FROM audit WHERE seq >= {noted}", f"DELETE FROM checkpoint WHERE seq >= {noted}")
    [found] = books.faults()
    assert f"the log ends at row {noted - 1}" in found
    assert f"is of row {noted}: its tail was cut off" in found


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET reason='nothing' WHERE seq=3",
        "DELETE FROM audit WHERE seq=3",
        "UPDATE audit SET seq = CASE seq WHEN 3 THEN -4 ELSE -3 END WHERE seq IN (3, 4)",
    ],
)
def test_whoever_computes_all_hashes_anew_is_found_by_the_signed_checkpoints(books: Books, statement: str) -> None:
    books.sql(statement, "UPDATE audit SET seq = -seq WHERE seq < 0")
    books.rehash()
    found = books.faults()
    assert not any("does not give its hash" in text or "missing" in text for text in found)
    assert any(
        text.startswith("the checkpoint of row ") and "was changed after it was signed" in text for text in found
    )
    assert any(text.startswith("the note of ") for text in found)


def test_whoever_removes_the_checkpoints_too_is_found_by_the_notes(books: Books) -> None:
    books.sql("UPDATE audit SET reason='nothing' WHERE seq=3", "DELETE FROM checkpoint")
    books.rehash()
    found = books.faults()
    assert len(found) == 2
    assert all(text.startswith("the note of ") and "another hash" in text for text in found)
    assert books.verify().by_note == 0


def test_whoever_signs_new_checkpoints_with_the_hubs_key_is_found_by_the_notes(books: Books) -> None:
    books.sql("UPDATE audit SET reason='nothing' WHERE seq=3", "DELETE FROM checkpoint")
    books.rehash()
    books.trail.close()
    found = books.faults()
    assert len(found) == 2
    assert all(text.startswith("the note of ") for text in found)


def test_whoever_signs_with_a_key_of_their_own_is_named_by_the_one_who_knows_the_right_one(
    books: Books, tmp_path: Path
) -> None:
    right = open_signer(books.fleet.folder, FLEET).public_key
    for name in ("hub.key", "hub.pub"):
        (books.fleet.folder / name).unlink()
    books.sql("DELETE FROM checkpoint")
    wrong = open_signer(books.fleet.folder, FLEET).public_key
    books.begin()
    books.trail.close()
    assert any(f"another key than the hub's, {right}" in text for text in books.faults())
    found = [fault.message for fault in books.verify(public_key=right).faults]
    assert any(f"another key than the hub's, {wrong}" in text for text in found)


def test_a_checkpoint_that_was_edited_is_named(books: Books) -> None:
    signed = books.verify().by_checkpoint
    books.sql(f"UPDATE checkpoint SET time='2020-01-01T00:00:00+00:00' WHERE seq={signed}")
    [found] = books.faults()
    assert found == f"the checkpoint of row {signed} (2020-01-01T00:00:00+00:00) has a false signature"


def test_a_row_after_the_last_checkpoint_can_be_rewritten_and_verify_does_not_claim_otherwise(books: Books) -> None:
    books.sql(f"UPDATE audit SET reason='nothing' WHERE seq={rows(books)}")
    books.rehash()
    verdict = books.verify()
    assert verdict.faults == ()
    assert verdict.anchored.endswith("2 rows not yet")


# --- git --------------------------------------------------------------------------------------------------------------


def test_history_that_was_rewritten_under_the_log_is_named(books: Books) -> None:
    second = books.repo.git("rev-parse", "HEAD")
    books.repo.git("commit", "--quiet", "--amend", "-m", "Second, told otherwise")
    [found] = books.faults()
    assert found.startswith(f"revision {second}, which row ")
    assert found.endswith("is not in the history of main: it was rewritten")


def test_history_that_was_rewritten_with_the_hubs_knowledge_is_said_and_no_fault(books: Books) -> None:
    first = books.repo.git("rev-parse", "HEAD~1")
    books.repo.git("reset", "--quiet", "--hard", first)
    third = books.commit("writer", message="Third, instead of the second")
    refused = books.fleet.run().plan.refused
    books.fleet.store.set_meta("confirmed_plan", refused[0].confirm)
    books.settle()
    verdict = books.verify()
    assert verdict.faults == ()
    assert ["was rewritten with the hub's knowledge" in text for text in verdict.unchecked] == [True]
    assert third in books.notes.read_all()


def test_a_repository_that_is_gone_proves_nothing(books: Books) -> None:
    (books.repo.path / ".git").rename(books.repo.path / "gone")
    [found] = books.faults()
    assert found.startswith("applied revisions that cannot be proven: 2; ")


def test_a_revision_that_only_the_table_knows_must_be_in_the_history_too(books: Books) -> None:
    books.sql(f"UPDATE revision SET id='{'0' * 40}' WHERE rowid = 1")
    assert books.faults() == [f"revision {'0' * 40} is not in the history of main: it was rewritten"]


# --- notes ------------------------------------------------------------------------------------------------------------


def test_a_note_that_was_removed_edited_moved_or_put_back_is_named(books: Books) -> None:
    ref = f"--ref={notes_ref(FLEET)}"
    head, before = books.repo.git("rev-parse", "HEAD", "HEAD~1").split()
    text = books.notes.read_all()[head]
    books.repo.git("notes", ref, "remove", head)
    assert [f"the note of {head} is gone" in found for found in books.faults()] == [True]
    books.repo.git("notes", ref, "add", "-m", text.replace("converged", "perfect"), head)
    assert [found.partition(" is not one ")[0] for found in books.faults()] == [f"the note of {head}"]
    books.repo.git("notes", ref, "add", "-f", "-m", text, head)
    assert books.faults() == []
    books.repo.git("notes", ref, "add", "-f", "-m", text, before)
    assert f"the note of {before} was written for another commit, {head}" in books.faults()


def test_notes_that_were_set_back_are_old_ones(books: Books) -> None:
    head = books.repo.git("rev-parse", "HEAD")
    old = books.notes.read_all()[head]
    books.fleet.clock.advance(7200)
    books.settle()
    assert books.faults() == []
    books.notes.write(head, old)
    [found] = books.faults()
    assert found.startswith(f"the note of {head} is an old one: of row ")


def test_a_backup_that_was_restored_explains_the_notes_of_the_rows_that_it_lost(books: Books, tmp_path: Path) -> None:
    books.kill()
    backup = tmp_path / "backup.db"
    shutil.copyfile(books.path, backup)
    books.begin()
    books.commit("writer", message="After the backup")
    books.settle()
    books.kill()
    backup.replace(books.path)
    books.begin()
    assert any("its tail was cut off" in text or "does not know" in text for text in books.faults())
    books.fleet.clock.advance(60)
    entry = books.fleet.world.entry(kind="fleet", name=FLEET, action="restore", outcome="applied", cause="operator")
    audit.append(books.fleet.store, [entry])
    verdict = books.verify()
    assert verdict.faults == ()
    assert [text.partition(" (")[0] for text in verdict.unchecked] == [
        "notes of rows that were lost when a backup was restored"
    ]


# --- containers -------------------------------------------------------------------------------------------------------


def test_a_container_that_no_revision_explains_is_named(books: Books) -> None:
    record = books.fleet.instances()["writer-0"]
    put_beside(books.fleet, "by-hand", {"io.reconciler.seal": "0" * 32})
    [found] = books.faults()
    assert found.startswith("container by-hand (")
    assert found.endswith("has the fleet's label, but not its seal: it was made by somebody else")
    books.sql(f"UPDATE instance SET container_id='other' WHERE name='{record.name}'")
    assert any("is not the one on record, other" in text for text in books.faults())
    books.sql(f"DELETE FROM instance WHERE name='{record.name}'")
    assert any("is not on record: no revision asked for it" in text for text in books.faults())


def test_a_container_that_is_only_on_record_is_named(books: Books) -> None:
    books.sql("DELETE FROM audit WHERE kind='agent' AND name='reviewer-0'")
    assert any("is on record, but no row of the log says that it was made" in text for text in books.faults())


def test_an_engine_that_is_away_is_said_and_proves_nothing(books: Books) -> None:
    books.fleet.runtime.go_down()
    verdict = books.verify()
    assert verdict.faults == ()
    assert [text.partition(":")[0] for text in verdict.unchecked] == ["containers cannot be listed"]


# --- checkpoints that a sink got --------------------------------------------------------------------------------------


def kept_elsewhere(books: Books) -> list[Checkpoint]:
    return [kept.checkpoint for kept in checkpoints(books.fleet.store)]


def test_checkpoints_kept_elsewhere_agree_with_a_log_that_nobody_touched(books: Books) -> None:
    known = kept_elsewhere(books)
    verdict = books.verify(elsewhere=known)
    assert verdict.faults == ()
    assert f"checkpoints kept elsewhere: {len(known)}, the newest of row {known[-1].seq}" in verdict.proven


def test_whoever_has_the_hubs_key_and_rewrites_the_notes_too_is_found_by_them(books: Books) -> None:
    known = kept_elsewhere(books)
    books.sql("UPDATE audit SET reason='nothing' WHERE seq=3", "DELETE FROM checkpoint")
    books.rehash()
    books.repo.git("update-ref", "-d", notes_ref(FLEET))
    books.trail.close()
    assert books.faults() == []
    found = [fault.message for fault in books.verify(elsewhere=known).faults]
    assert found[0].startswith(f"the checkpoint kept elsewhere of row {known[0].seq} ")
    assert "was changed after it was signed" in found[0]


def test_a_tail_cut_off_with_all_that_is_signed_here_is_found_by_them(books: Books) -> None:
    known = kept_elsewhere(books)
    last = known[-1].seq
    books.sql(f"DELETE FROM audit WHERE seq >= {last}", f"DELETE FROM checkpoint WHERE seq >= {last}")
    found = [fault.message for fault in books.verify(elsewhere=known).faults]
    assert any(text.endswith(f" is of row {last}: its tail was cut off") for text in found)


def test_a_checkpoint_elsewhere_that_the_hub_never_signed_is_named(books: Books) -> None:
    false = replace(kept_elsewhere(books)[0], hash="00")
    [found] = [fault.message for fault in books.verify(elsewhere=[false]).faults]
    assert found.endswith("that was kept elsewhere has a false signature")
