"""`audit verify`: is the log whole, is it the one that was signed, and do git, notes and containers agree with it?

What was read comes in as `Evidence`; a `Verdict` goes out that names every fault, and says up to where the log is
anchored and what could not be checked. Pure but for the reading of rows from the store.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.audit.note import Note, read_note
from reconciler.audit.signing import is_signed
from reconciler.core.checkpoint import Checkpoint
from reconciler.identity.seal import SEAL_LABEL, is_sealed
from reconciler.ports import ContainerSummary
from reconciler.store.audit import ChainReading, Fault
from reconciler.store.checkpoints import KeptCheckpoint
from reconciler.store.records import InstanceRecord

REWRITTEN = "rewritten"
"""In `reason` of the row of an accepted revision: it does not descend from the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What git says. `history` is every commit of the followed branch; `notes` the texts of the fleet's notes.

    `copied` are notes of another clone, which may be older, and which nobody here could change.
    """

    branch: str
    history: frozenset[str]
    notes: Mapping[str, str]
    copied: Mapping[str, str] = field(default_factory=dict)
    is_shallow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """What runs, and what the record says of it. `made` are instances by name, with the row that says so first."""

    listed: Sequence[ContainerSummary]
    recorded: Mapping[str, InstanceRecord]
    made: Mapping[str, int]
    seal_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is compared.

    `revisions` are ids with the first row of each, 0 where only the table of revisions has it; `rewrites` the rows by
    which a revision was accepted that does not descend from the one before. `repository` is a reason where git cannot
    be read. `containers` is None where they were not looked at, and `unread` says why. `trusted_key` is the only public
    key that counts. `elsewhere` are checkpoints that a sink got, which nobody here could change. `restores` are the
    times at which a backup was put in place, by the row that says so.
    """

    fleet: str
    trusted_key: str
    chain: ChainReading
    checkpoints: Sequence[KeptCheckpoint]
    revisions: Mapping[str, int]
    rewrites: Sequence[int] = ()
    restores: Mapping[int, str] = field(default_factory=dict)
    elsewhere: Sequence[Checkpoint] = ()
    repository: Repository | str = ""
    containers: Containers | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`faults` are empty when all that was looked at agrees. `by_*`: the row up to which that anchors the log."""

    rows: int
    last_seq: int
    by_checkpoint: int
    by_note: int
    faults: tuple[Fault, ...]
    proven: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def anchored(self) -> str:
        """What is anchored, and what not yet."""
        left = self.last_seq - max(self.by_checkpoint, self.by_note)
        note = f"by a note to row {self.by_note}" if self.by_note else "by no note"
        checkpoint = f"by a signed checkpoint to row {self.by_checkpoint}" if self.by_checkpoint else "by no checkpoint"
        return f"anchored {note}, {checkpoint}; {left} row{'s' if left != 1 else ''} not yet"


@dataclass(slots=True)
class _Findings:
    faults: list[Fault] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def add(self, message: str, seq: int = 0) -> None:
        self.faults.append(Fault(seq=seq, message=message))


def wanted_rows(checkpoints: Iterable[Checkpoint], notes: Iterable[str]) -> frozenset[int]:
    """The rows whose hashes checkpoints and notes speak of."""
    noted = (note.seq for text in notes if (note := read_note(text)) is not None)
    return frozenset((*(checkpoint.seq for checkpoint in checkpoints), *noted))


def judge(evidence: Evidence) -> Verdict:
    """Compare everything with everything."""
    found = _Findings()
    found.faults.extend(evidence.chain.faults)
    if not evidence.chain.faults:
        found.proven.append(f"rows, each following from the one before: {evidence.chain.count}")
    by_checkpoint = max(_judge_checkpoints(evidence, found), _judge_elsewhere(evidence, found))
    by_note = 0
    commits = {id_: seq for id_, seq in evidence.revisions.items() if ":" not in id_}
    if len(commits) < len(evidence.revisions):
        count = len(evidence.revisions) - len(commits)
        found.unchecked.append(f"revisions of plain directories, which no history can prove: {count}")
    if isinstance(evidence.repository, Repository):
        _judge_history(commits, evidence, evidence.repository, found)
        by_note = _judge_notes(evidence, evidence.repository, found)
    elif commits:
        found.add(f"applied revisions that cannot be proven: {len(commits)}; {evidence.repository}")
    if evidence.containers is not None:
        _judge_containers(evidence, evidence.containers, found)
    return Verdict(
        rows=evidence.chain.count,
        last_seq=evidence.chain.last_seq,
        by_checkpoint=by_checkpoint,
        by_note=by_note,
        faults=tuple(found.faults),
        proven=tuple(found.proven),
        unchecked=(*evidence.unread, *found.unchecked),
    )


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _judge_checkpoints(evidence: Evidence, found: _Findings) -> int:
    """The seq of the newest checkpoint that holds."""
    holds, is_rewritten = 0, False
    for kept in evidence.checkpoints:
        checkpoint = kept.checkpoint
        if why := _not_genuine(checkpoint, evidence):
            found.add(f"the checkpoint of row {checkpoint.seq} ({checkpoint.time}) {why}", checkpoint.seq)
        elif checkpoint.seq > evidence.chain.last_seq:
            cut_off = _cut_off("a checkpoint", checkpoint.seq, checkpoint.time, evidence.chain.last_seq)
            found.add(cut_off, checkpoint.seq)
        elif evidence.chain.hashes.get(checkpoint.seq) == checkpoint.hash:
            holds = checkpoint.seq
        elif not is_rewritten:
            is_rewritten = True
            found.add(_written_anew("the checkpoint", checkpoint.seq, checkpoint.time, holds), holds + 1)
    if holds and not is_rewritten:
        found.proven.append(f"signed checkpoints: {len(evidence.checkpoints)}, the newest of row {holds}")
    return holds


def _judge_elsewhere(evidence: Evidence, found: _Findings) -> int:
    """The seq of the newest checkpoint of a sink that holds."""
    holds, faults = 0, len(found.faults)
    lost: dict[int, int] = {}
    for checkpoint in sorted(evidence.elsewhere, key=lambda c: c.seq):
        seq, time, last = checkpoint.seq, checkpoint.time, evidence.chain.last_seq
        if why := _not_genuine(checkpoint, evidence):
            found.add(f"the checkpoint of row {seq} ({time}) that was kept elsewhere {why}", seq)
        elif evidence.chain.hashes.get(seq) == checkpoint.hash:
            holds = seq
        elif (row := _restore_after(seq, time, evidence)) is not None:
            lost[row] = lost.get(row, 0) + 1
        elif seq > last:
            found.add(_cut_off("a checkpoint that was kept elsewhere", seq, time, last), seq)
        else:
            found.add(_written_anew("the checkpoint kept elsewhere", seq, time, holds), holds + 1)
    for row, count in lost.items():
        found.unchecked.append(f"checkpoints of rows that were lost when a backup was restored (row {row}): {count}")
    if evidence.elsewhere and len(found.faults) == faults:
        found.proven.append(f"checkpoints kept elsewhere: {len(evidence.elsewhere)}, the newest of row {holds}")
    return holds


def _restore_after(seq: int, time: str, evidence: Evidence) -> int | None:
    """The row of the restore that explains why the log has another row there; None where none does."""
    return next((row for row, restored in evidence.restores.items() if seq >= row and time < restored), None)


def _not_genuine(checkpoint: Checkpoint, evidence: Evidence) -> str:
    if checkpoint.fleet != evidence.fleet:
        return f"is of another fleet, {checkpoint.fleet}"
    if checkpoint.key != evidence.trusted_key:
        return _other_key(checkpoint.key, evidence)
    return "" if is_signed(checkpoint.signed_bytes, checkpoint.signature, checkpoint.key) else "has a false signature"


def _other_key(key: str, evidence: Evidence) -> str:
    if not evidence.trusted_key:
        return f"is signed by {key}, and the hub's public key is gone; name it with --public-key"
    return f"was signed with another key than the hub's, {key}"


def _cut_off(what: str, seq: int, time: str, last_seq: int) -> str:
    return f"the log ends at row {last_seq}, but {what} of {time} is of row {seq}: its tail was cut off"


def _written_anew(what: str, seq: int, time: str, holds: int) -> str:
    rows = f"a row from {holds + 1} to {seq}" if holds + 1 < seq else f"row {seq}"
    return f"{what} of row {seq} ({time}) has another hash: {rows} was changed after it was signed, and the hashes anew"


# --- git --------------------------------------------------------------------------------------------------------------


def _judge_history(commits: Mapping[str, int], evidence: Evidence, repository: Repository, found: _Findings) -> None:
    gone = {id_: seq for id_, seq in commits.items() if id_ not in repository.history}
    explained = {id_ for id_, seq in gone.items() if any(row > seq for row in evidence.rewrites)}
    for id_, seq in sorted(gone.items(), key=lambda item: item[1]):
        if id_ in explained:
            continue
        why = "; the history is cut off, run git fetch --unshallow" if repository.is_shallow else ""
        where = f", which row {seq} is the first to name," if seq else ""
        found.add(f"revision {id_}{where} is not in the history of {repository.branch}: it was rewritten{why}", seq)
    if explained:
        rows = ", ".join(str(row) for row in evidence.rewrites)
        found.unchecked.append(
            f"applied revisions that are not in the history of {repository.branch} any more, because it was rewritten "
            f"with the hub's knowledge (row {rows}): {len(explained)}"
        )
    if len(gone) == len(explained):
        found.proven.append(f"applied revisions in the history of {repository.branch}: {len(commits) - len(gone)}")


def _judge_notes(evidence: Evidence, repository: Repository, found: _Findings) -> int:
    """The seq up to which notes anchor the log."""
    anchored, faults = 0, len(found.faults)
    lost: dict[int, list[str]] = {}
    for commit, text in (*repository.notes.items(), *repository.copied.items()):
        note = read_note(text)
        if note is None:
            found.add(f"the note of {commit} is not one that the hub wrote: its signature does not fit its text")
        elif not (why := _disagrees(note, commit, evidence)):
            anchored = max(anchored, note.seq)
        elif (row := _lost_by_restore(note, commit, evidence)) is not None:
            lost.setdefault(row, []).append(commit)
        else:
            found.add(f"the note of {commit} {why}", note.seq)
    for row, commits in lost.items():
        found.unchecked.append(f"notes of rows that were lost when a backup was restored (row {row}): {len(commits)}")
    newest = {kept.noted: kept.checkpoint for kept in evidence.checkpoints if kept.noted}
    for commit, checkpoint in newest.items():
        note = read_note(repository.notes.get(commit, ""))
        if commit not in repository.notes:
            found.add(f"the note of {commit} is gone; the hub wrote it for row {checkpoint.seq}", checkpoint.seq)
        elif note is not None and note.seq < checkpoint.seq:
            found.add(f"the note of {commit} is an old one: of row {note.seq}, not {checkpoint.seq}", checkpoint.seq)
    count = len(repository.notes) + len(repository.copied)
    if count and len(found.faults) == faults:
        found.proven.append(f"git notes: {count}, the newest of row {anchored}")
    return anchored


def _lost_by_restore(note: Note, commit: str, evidence: Evidence) -> int | None:
    """The row of the restore that explains why the log does not have what the note says; None where none does."""
    if note.commit != commit or _foreign(note, evidence):
        return None
    return _restore_after(note.seq, note.time, evidence)


def _foreign(note: Note, evidence: Evidence) -> str:
    if note.fleet != evidence.fleet:
        return f"is of another fleet, {note.fleet}"
    return _other_key(note.key, evidence) if note.key != evidence.trusted_key else ""


def _disagrees(note: Note, commit: str, evidence: Evidence) -> str:
    if note.commit != commit:
        return f"was written for another commit, {note.commit}"
    if why := _foreign(note, evidence):
        return why
    if note.seq > evidence.chain.last_seq:
        return f"disagrees: {_cut_off('it', note.seq, note.time, evidence.chain.last_seq)}"
    if evidence.chain.hashes.get(note.seq) != note.hash:
        return f"disagrees: {_written_anew('its checkpoint', note.seq, note.time, 0)}"
    if commit not in evidence.revisions:
        return "is of a revision that the log does not know"
    return ""


# --- containers -------------------------------------------------------------------------------------------------------


def _judge_containers(evidence: Evidence, containers: Containers, found: _Findings) -> None:
    before = len(found.faults)
    for container in containers.listed:
        if why := _unexplained(container, evidence, containers):
            found.add(f"container {container.name} ({container.id[:12]}) {why}")
    if len(found.faults) == before:
        found.proven.append(f"containers, each explained by a revision: {len(containers.listed)}")


def _unexplained(container: ContainerSummary, evidence: Evidence, containers: Containers) -> str:
    record = containers.recorded.get(container.name)
    if not is_sealed(containers.seal_key, evidence.fleet, container.name, container.labels.get(SEAL_LABEL, "")):
        return "has the fleet's label, but not its seal: it was made by somebody else"
    if record is None:
        return "is not on record: no revision asked for it"
    if record.container_id != container.id:
        return f"is not the one on record, {record.container_id[:12] or 'none'}"
    if container.name not in containers.made:
        return "is on record, but no row of the log says that it was made"
    if record.revision not in evidence.revisions:
        return f"is of revision {record.revision}, which no row of the log knows"
    return ""
