"""The text of a note: what is written is read, and nothing else."""

from pathlib import Path

import pytest

from reconciler.audit.note import Note, read_note, show_note
from reconciler.audit.signing import Signer, open_signer


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return open_signer(tmp_path, "f1")


def note(signer: Signer) -> Note:
    return Note(
        outcome="converged",
        time="2026-01-01T12:00:00+00:00",
        plan_digest="1:ab",
        changes="3 applied, 0 failed",
        fleet="f1",
        commit="c" * 40,
        seq=12,
        hash="d" * 64,
        key=signer.public_key,
    )


def test_what_was_written_is_read_also_with_lines_around_it(signer: Signer) -> None:
    text = show_note(note(signer), signer)
    assert read_note(text) == note(signer)
    assert read_note(f"\n{text}\n\n") == note(signer)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("converged", "failed"),
        ("Checkpoint: 12", "Checkpoint: 13"),
        ("c" * 40, "e" * 40),
        ("Plan: ", "Plans: "),
        ("Changes: 3 applied, 0 failed\n", ""),
        ("Signature: ", "Signature: AAAA"),
        ("Key: ed25519:", "Key: rsa:"),
        ("Checkpoint: 12", "Checkpoint: many"),
    ],
)
def test_a_text_that_was_changed_anywhere_is_no_note(signer: Signer, before: str, after: str) -> None:
    text = show_note(note(signer), signer)
    assert before in text
    assert read_note(text.replace(before, after)) is None


@pytest.mark.parametrize("text", ["", "Signature: ", "some words\nof a person", "Signature: AAAA\n"])
def test_what_somebody_else_wrote_is_no_note(text: str) -> None:
    assert read_note(text) is None


def test_whoever_signs_with_another_key_says_so(signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = open_signer(tmp_path / "other", "f1")
    assert read_note(show_note(note(signer), other)) is None
