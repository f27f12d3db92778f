"""What the running hub adds to its audit log: a row per accepted revision, signed checkpoints, and git notes.

`accept` is called when a revision is in force and before anything is made of it, `look` after each pass, `close` when
no row follows any more. A note that cannot be written is a condition and is tried again; no pass waits for it or fails.
Done twice, after a kill, it comes out the same.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.audit.ledger import find_ledger
from reconciler.audit.note import Note, show_note
from reconciler.audit.push import Push
from reconciler.audit.signing import Signer, open_signer
from reconciler.audit.verify import REWRITTEN
from reconciler.core.change import Cause
from reconciler.core.checkpoint import Checkpoint
from reconciler.core.origin import parse_origin
from reconciler.core.outcome import Failed
from reconciler.errors import SourceError, StoreError
from reconciler.kinds.kind import Desired, World
from reconciler.loop.outbox import Outbox
from reconciler.source.notes import Notes
from reconciler.source.transfer import Remote
from reconciler.store import audit
from reconciler.store.checkpoints import newest_checkpoint, put_checkpoint

if TYPE_CHECKING:
    from reconciler.loop.conditions import Fault
    from reconciler.loop.run import PassReport
    from reconciler.store.records import NoticeRecord

ACCEPT = "accept"
CONVERGED, FAILED, IN_PROGRESS = "converged", "failed", "in progress"
PARTLY = "converged, but for what was rolled back"
SETTLES_S = 60.0
"""How long a revision may be on its way before its note says so."""
AGAIN_S = 60.0
UNANCHORED = "AuditUnanchored"
_ACCEPTED, _NOTED = "accepted_row", "noted"


def open_trail(world: World, source: str, outbox: Outbox | None = None) -> "Trail":
    """For the hub of `source`; without notes where its source is no repository, or nobody wants them."""
    settings = world.operator.audit
    ledger = find_ledger(source, world.operator.source, world.state)
    notes = ledger.notes(world.fleet) if settings.notes else None
    push = None
    if notes is not None and settings.push is not None:
        remote = Remote(origin=parse_origin(settings.push.url), credentials=settings.push.credentials)
        push = Push(notes, remote)
        push.start()
    return Trail(world, notes, push, outbox)


class Trail:
    """Of one hub. `notes` is None where none are wanted, or the source is no repository."""

    def __init__(
        self, world: World, notes: Notes | None, push: Push | None = None, outbox: Outbox | None = None
    ) -> None:
        self._world, self._notes, self._push, self._settings = world, notes, push, world.operator.audit
        self._outbox = outbox
        self._signer: Signer | None = None
        self._fault: Fault | None = None
        self._again_at = 0.0
        now = world.clock.boottime()
        self._checked_at = self._in_force_since = self._noted_at = now

    def faults(self) -> "Sequence[Fault]":
        """That nothing anchors the log, or that its anchor stays on this host, and why."""
        if self._fault is None and self._push is not None and self._push.fault:
            return [(UNANCHORED, "PushFailed", self._push.fault)]
        return [self._fault] if self._fault is not None else []

    def accept(self, desired: Desired) -> None:
        """Record that another revision is in force than before, once. Raises StoreError."""
        revision, store = desired.revision, self._world.store
        last = json.loads(store.get_meta(_ACCEPTED) or "{}")
        before = last.get("revision", "")
        if before == revision.id:
            return
        back = next((r for r in desired.rollbacks if r.is_of_fleet), None)
        why = f"{back}; after {before[:12] or 'nothing'}" if back is not None else ""
        why = why or self._descent(before, last.get("skipped", ""), revision.id)
        entry = self._world.entry(
            revision=revision.id,
            actor=(revision.author or "hub") if back is None else back.actor,
            cause=str(Cause.COMMIT if back is None else Cause.OPERATOR if back.is_asked else Cause.CRASH),
            kind="revision",
            name=revision.id,
            action=ACCEPT,
            before=json.dumps({"revision": before}) if before else "",
            after=json.dumps({"subject": revision.subject, "time": revision.time.isoformat() if revision.time else ""}),
            outcome="applied",
            reason=why,
        )
        with store.transaction():
            audit.append(store, [entry])
            accepted = {"revision": revision.id, "seq": audit.newest(store)[0]}
            store.set_meta(_ACCEPTED, json.dumps(accepted | ({"skipped": back.since} if back is not None else {})))
        self._in_force_since = self._world.clock.boottime()

    def look(self, report: "PassReport | None") -> None:
        """Write the checkpoint and the note that are due. Raises StoreError when state.db cannot be used."""
        now = self._world.clock.boottime()
        if now < self._again_at:
            return
        try:
            signer = self._signer = self._signer or open_signer(self._key_folder, self._world.fleet)
        except StoreError as exc:
            self._fail("NoKey", f"{exc}: {exc.__cause__}", now)
            return
        self._fault = None
        if self._is_checkpoint_due(now):
            self._checkpoint(signer, now)
        if report is not None and (outcome := self._due_outcome(report, now)):
            self._note(signer, report, outcome, now)

    def close(self) -> None:
        """Sign what there is. A log that cannot be written is said by the passes."""
        with suppress(StoreError):
            signer = self._signer or open_signer(self._key_folder, self._world.fleet)
            self._checkpoint(signer, self._world.clock.boottime())
        if self._push is not None:
            self._push.close()

    @property
    def _key_folder(self) -> Path:
        return Path(self._settings.key_directory) if self._settings.key_directory else self._world.state

    def _fail(self, reason: str, message: str, now: float) -> None:
        self._fault = (UNANCHORED, reason, message)
        self._again_at = now + AGAIN_S

    def _descent(self, before: str, skipped: str, revision: str) -> str:
        """Whether it follows from the one before, in words; `REWRITTEN` stands first where it does not.

        After a rollback it has to follow from what was skipped, too.
        """
        if not before:
            return "the first revision on record"
        if ":" in before + revision:
            return f"after {before[:21]}"
        with suppress(SourceError):
            if not self._world.source.is_ancestor(before, revision):
                return f"{REWRITTEN}: it does not descend from {before[:12]}, which was in force"
            if skipped and not self._world.source.is_ancestor(skipped, revision):
                return f"{REWRITTEN}: it does not descend from {skipped[:12]}, which was rolled back"
        return f"after {before[:12]}"

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _is_checkpoint_due(self, now: float) -> bool:
        last = newest_checkpoint(self._world.store)
        new_rows = audit.newest(self._world.store)[0] - (last.checkpoint.seq if last else 0)
        every = self._settings.checkpoint_every
        return new_rows >= every.rows or (new_rows > 0 and now - self._checked_at >= every.seconds)

    def _checkpoint(self, signer: Signer, now: float) -> Checkpoint | None:
        """Of the newest row; None where there is none."""
        store = self._world.store
        self._checked_at = now
        with store.transaction():
            seq, row_hash = audit.newest(store)
            last = newest_checkpoint(store)
            if last is not None and last.checkpoint.seq == seq:
                return last.checkpoint
            if not seq:
                return None
            checkpoint = signer.sign_checkpoint(seq, row_hash, self._world.clock.now().isoformat())
            put_checkpoint(store, checkpoint)
            rows = self._keep_for_sink(checkpoint)
        if self._outbox is not None:
            self._outbox.send(rows)
        return checkpoint

    def _keep_for_sink(self, checkpoint: Checkpoint) -> "Sequence[NoticeRecord]":
        """In the transaction of the checkpoint, so that the sink gets it even if the hub is killed now."""
        if self._outbox is None or self._settings.sink is None:
            return ()
        rows = self._outbox.address(self._settings.sink, checkpoint.document())
        self._outbox.keep(rows)
        return rows

    # --- notes --------------------------------------------------------------------------------------------------------

    def _due_outcome(self, report: "PassReport", now: float) -> str:
        """How the revision in force came out, if that is to be noted now; else empty."""
        accepted = json.loads(self._world.store.get_meta(_ACCEPTED) or "{}").get("revision", "")
        if self._notes is None or not accepted or ":" in accepted or report.revision != accepted:
            return ""
        outcome = _outcome(report)
        noted = json.loads(self._world.store.get_meta(_NOTED) or "{}")
        if noted.get("revision") != accepted:
            is_due = outcome == CONVERGED or now - self._in_force_since >= SETTLES_S
        elif (noted["outcome"] == CONVERGED) != (outcome == CONVERGED) and outcome in (CONVERGED, PARTLY):
            is_due = True
        else:
            has_new = audit.newest(self._world.store)[0] > noted["seq"]
            is_due = has_new and now - self._noted_at >= self._settings.renew_notes
        return outcome if is_due else ""

    def _note(self, signer: Signer, report: "PassReport", outcome: str, now: float) -> None:
        store, commit = self._world.store, report.revision
        checkpoint = self._checkpoint(signer, now)
        if self._notes is None or checkpoint is None:
            return
        plan_digest, changes = self._account(commit, report)
        note = Note(
            outcome=outcome,
            time=self._world.clock.now().isoformat(),
            plan_digest=plan_digest,
            changes=changes,
            fleet=self._world.fleet,
            commit=commit,
            seq=checkpoint.seq,
            hash=checkpoint.hash,
            key=signer.public_key,
        )
        try:
            self._notes.write(commit, show_note(note, signer))
        except SourceError as exc:
            self._fail("NoteUnwritable", f"{exc}; the log goes on, and the note is tried again", now)
            return
        with store.transaction():
            put_checkpoint(store, checkpoint, noted=commit)
            store.set_meta(_NOTED, json.dumps({"revision": commit, "outcome": outcome, "seq": checkpoint.seq}))
        self._noted_at = now
        if self._push is not None:
            self._push.ring()

    def _account(self, commit: str, report: "PassReport") -> tuple[str, str]:
        """The plan that began with this revision, and how many of its changes came out how."""
        since = json.loads(self._world.store.get_meta(_ACCEPTED) or "{}").get("seq", 0)
        plan_digest, counts = "", {"applied": 0, "failed": 0}
        for row in audit.choose(self._world.store, audit.Choice(revision=commit, after_seq=since)):
            if row.entry.plan_digest:
                plan_digest = plan_digest or row.entry.plan_digest
                if row.entry.outcome in counts:
                    counts[row.entry.outcome] += 1
        changes = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return plan_digest or report.plan.digest, changes


def _outcome(report: "PassReport") -> str:
    """Of what git asks for; tasks come and go, and say nothing of the revision."""
    if any(isinstance(d.outcome, Failed) and d.change.kind != "task" for d in report.done):
        return FAILED
    left = [c for c in (*report.plan.pending, *report.held) if c.kind != "task"]
    if left:
        return IN_PROGRESS
    return CONVERGED if all(r.is_of_fleet for r in report.rollbacks) else PARTLY
