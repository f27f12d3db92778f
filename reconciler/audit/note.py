"""The text of the note at an applied commit: how it came out, under which plan, and up to where the log is anchored.

Lines of `Name: value`, the last of them a signature over all before it, so that a note proves itself wherever it is.
"""

from dataclasses import dataclass

from reconciler.audit.signing import Signer, is_signed

_SIGNATURE = "Signature: "
_FIELDS = ("Outcome", "Time", "Plan", "Changes", "Fleet", "Commit", "Checkpoint", "Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`seq` and `hash` are of the row of the audit log that it anchors; `key` is the public key of who signed it."""

    outcome: str
    time: str
    plan_digest: str
    changes: str
    fleet: str
    commit: str
    seq: int
    hash: str
    key: str


def show_note(note: Note, signer: Signer) -> str:
    """The signed text."""
    values = (
        note.outcome,
        note.time,
        note.plan_digest,
        note.changes,
        note.fleet,
        note.commit,
        f"{note.seq} {note.hash}",
        note.key,
    )
    body = "".join(f"{name}: {value}\n" for name, value in zip(_FIELDS, values, strict=True))
    return f"{body}{_SIGNATURE}{signer.sign(body.encode())}\n"


def read_note(text: str) -> Note | None:
    """What a note says, if it is one of ours and who holds its key signed all of it; else None."""
    body, mark, signature = text.strip().rpartition(_SIGNATURE)
    lines = body.splitlines()
    if not mark or len(lines) != len(_FIELDS):
        return None
    pairs = [line.partition(": ") for line in lines]
    if [name for name, _, _ in pairs] != list(_FIELDS):
        return None
    outcome, time, plan, changes, fleet, commit, checkpoint, key = (value for _, _, value in pairs)
    seq, _, row_hash = checkpoint.partition(" ")
    if not seq.isdecimal() or not is_signed(body.encode(), signature, key):
        return None
    return Note(
        outcome=outcome,
        time=time,
        plan_digest=plan,
        changes=changes,
        fleet=fleet,
        commit=commit,
        seq=int(seq),
        hash=row_hash,
        key=key,
    )
