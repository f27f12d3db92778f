"""Step 1: which revision is in force. The head of the source when it is valid, else the last good one.

What a person must know about it leaves as conditions: `SourceUnavailable`, `SourceUnsettled`,
`SourceUnverified`, `HistoryRewritten`, `ConfigInvalid`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler import __version__
from reconciler.core.problem import Problem
from reconciler.core.reading import Ok, Unavailable
from reconciler.core.yaml import MAX_BYTES
from reconciler.errors import CheckStoppedError, PolicyEngineError, SourceError
from reconciler.kinds.kind import Desired, Kind
from reconciler.kinds.tree import SYMLINK_MODE, ParseCache
from reconciler.kinds.verdicts import Verdicts
from reconciler.loop.admit import admit
from reconciler.loop.desired import HUB_FILE, Candidate, load_desired
from reconciler.ports import Clock, Entry, PolicyEngine, Revision, SetAside, Snapshot, Source
from reconciler.settings import OperatorSpec
from reconciler.store import records
from reconciler.store.records import RevisionRecord
from reconciler.store.store import Store

APPLIED = "applied_revision"
UNSETTLED = "SourceUnsettled"
VERDICTS = "policy_verdicts"


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """`desired` is None only when nothing good was ever seen. `faults` are (condition, reason, message)."""

    desired: Desired | None
    candidate: str = ""
    problems: tuple[Problem, ...] = ()
    faults: tuple[tuple[str, str, str], ...] = ()


class StoredSnapshot:
    """The manifests of an accepted revision as the record keeps them: what stays in force without git."""

    def __init__(self, record: RevisionRecord, store: Store) -> None:
        self.revision = Revision(id=record.id, author=record.author, subject=record.subject, audited=record.audited)
        tree: Mapping[str, tuple[str, int, str]] = json.loads(record.tree)
        self._entries = [
            Entry(path=path, blob=blob, size_bytes=size, mode=mode) for path, (blob, size, mode) in sorted(tree.items())
        ]
        self._store = store

    def entries(self, folder: str) -> Sequence[Entry]:
        return [e for e in self._entries if not folder or e.path == folder or e.path.startswith(f"{folder}/")]

    def prepare(self, folders: Sequence[str]) -> None:
        """Nothing to do: the record has everything."""

    def set_aside(self, folder: str) -> Sequence[SetAside]:  # noqa: ARG002 - the port's
        """Nothing: only what could be used was accepted."""
        return ()

    def close(self) -> None:
        """Nothing is kept open."""

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        contents = records.blobs(self._store, [e.blob for e in entries])
        try:
            return {e.path: contents[e.blob] for e in entries}
        except KeyError as exc:
            raise SourceError(f"the record of revision {self.revision.id} has lost content {exc}") from exc


class Revisions:
    """Finds the revision in force, loading each revision once."""

    def __init__(
        self,
        source: Source,
        store: Store,
        kinds: Sequence[Kind],
        operator: OperatorSpec,
        clock: Clock,
        engine: PolicyEngine,
        fresh_engine: Callable[[], PolicyEngine] | None = None,
    ) -> None:
        self._source, self._store, self._kinds = source, store, kinds
        self._operator, self._clock, self._engine = operator, clock, engine
        self._fresh_engine = fresh_engine
        self._cache = ParseCache()
        self._verdicts = Verdicts(
            f"{__version__}, {operator.policy.check_timeout:g}s",
            lambda: store.get_meta(VERDICTS) or "",
            lambda text: store.set_meta(VERDICTS, text),
        )
        self._last: Candidate | None = None
        self._snapshot: Snapshot | None = None
        self._good: Desired | None = None

    @property
    def applied(self) -> str:
        """The id of the revision that was last accepted; empty when there was none."""
        return self._store.get_meta(APPLIED) or ""

    def in_force(self) -> InForce:
        """The desired state to work towards now. Raises StoreError."""
        head = self._source.head()
        if not isinstance(head, Ok):
            reason = head.reason if isinstance(head, Unavailable) else "there is no commit yet"
            kind = UNSETTLED if reason.startswith(UNSETTLED) else "SourceUnavailable"
            return InForce(desired=self.last_good(), faults=((kind, kind, reason.removeprefix(f"{kind}: ")),))
        if fault := self._unverified(head.value):
            return InForce(desired=self.last_good(), candidate=head.value.id, faults=(fault,))
        try:
            candidate = self._load(head.value)
        except SourceError as exc:
            return InForce(desired=self.last_good(), faults=(("SourceUnavailable", "Unreadable", str(exc)),))
        except CheckStoppedError:
            return InForce(desired=self.last_good())
        except PolicyEngineError as exc:
            message = f"revision {head.value.id[:12]} cannot be judged: {exc}"
            return InForce(desired=self.last_good(), faults=(("PolicyFallback", "CannotJudge", message),))
        if candidate.desired is None:
            first = str(candidate.problems[0])
            count = len(candidate.problems)
            message = f"revision {candidate.revision[:12]} has {count} problem{'s' * (count > 1)}; first: {first}"
            return InForce(
                desired=self.last_good(),
                candidate=candidate.revision,
                problems=candidate.problems,
                faults=(("ConfigInvalid", "Invalid", message),),
            )
        faults = self._rewritings(candidate.desired.revision)
        return InForce(desired=candidate.desired, candidate=candidate.revision, faults=faults)

    def last_good(self) -> Desired | None:
        """The last accepted revision, from memory or from the record. Raises StoreError.

        Its policies were judged when it was accepted, and are not judged again.
        """
        if self._good is not None:
            return self._good
        record = records.revision(self._store, self.applied) if self.applied else None
        if record is None or not record.tree:
            return None
        try:
            snapshot = StoredSnapshot(record, self._store)
            kinds = [replace(k, verify=None) for k in self._kinds]
            loaded = load_desired(snapshot, kinds, self._operator, ParseCache(), lambda: self._engine)
        except SourceError:
            return None
        self._good = loaded.desired
        return self._good

    def is_descendant(self, desired: Desired) -> bool:
        """Whether a revision may follow the applied one without anybody's word. Raises SourceError."""
        applied = self.applied
        if not applied or applied == desired.revision.id or not desired.revision.audited:
            return True
        if ":" in applied or self._may_go_back:
            return True
        return self._source.is_ancestor(applied, desired.revision.id)

    def accept(self, desired: Desired) -> None:
        """Make a revision the last good one, durably, with the contents of its manifests.

        Raises StoreError, and SourceError when the contents cannot be read: the one before stays the last good then.
        """
        snapshot = self._snapshot
        if snapshot is None or snapshot.revision.id != desired.revision.id:
            self._good = desired
            return
        if self.applied != desired.revision.id:
            self._keep(snapshot, desired)
        self._good = desired
        snapshot.close()
        self._snapshot = None

    def close(self) -> None:
        """Let go of a snapshot that was not accepted."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    @property
    def _may_go_back(self) -> bool:
        """Whether the operator has said that history counts as it comes, or names the very commit."""
        source = self._operator.source
        return source.force_push == "accept" or (source.ref or "").startswith("commit:")

    def _unverified(self, revision: Revision) -> tuple[str, str, str] | None:
        """What its signatures say against it. What is in force already is not asked about again."""
        applied = self.applied
        if revision.id == applied:
            return None
        try:
            refused = self._source.unverified("" if ":" in applied else applied, revision.id)
        except SourceError as exc:
            return ("SourceUnverified", "CannotCheck", f"the signatures of {revision.id[:12]} cannot be checked: {exc}")
        return ("SourceUnverified", "Refused", refused) if refused else None

    def _rewritings(self, revision: Revision) -> tuple[tuple[str, str, str], ...]:
        """That the head does not descend from what is in force: somebody pushed by force, or moved the tag."""
        applied = self.applied
        if not applied or applied == revision.id or not revision.audited or ":" in applied:
            return ()
        try:
            if self._source.is_ancestor(applied, revision.id):
                return ()
        except SourceError as exc:
            return (("HistoryRewritten", "Unknown", f"{revision.id[:12]} may not follow {applied[:12]}: {exc}"),)
        held = "taken as it comes" if self._may_go_back else "held until somebody confirms it"
        message = f"{revision.id[:12]}, by {revision.author}, does not descend from {applied[:12]}; {held}"
        return (("HistoryRewritten", "ForcedPush", message),)

    def _keep(self, snapshot: Snapshot, desired: Desired) -> None:
        paths = desired.hub.paths
        entries = [
            e
            for folder in (paths.agents, paths.policies, paths.schemas, paths.tasks)
            for e in snapshot.entries(folder)
            if e.path.endswith((".yaml", ".rego", ".json")) and e.mode != SYMLINK_MODE and e.size_bytes <= MAX_BYTES
        ]
        entries.extend(snapshot.entries(HUB_FILE))
        kept, wanted = records.blob_ids(self._store), {e.blob: e for e in entries}
        new = [e for blob, e in wanted.items() if blob not in kept]
        contents = snapshot.read(new)
        now = self._clock.now().isoformat()
        revision = desired.revision
        with self._store.transaction():
            records.keep_blobs(self._store, {e.blob: contents[e.path] for e in new}, kept - wanted.keys())
            records.put_revision(
                self._store,
                RevisionRecord(
                    id=revision.id,
                    author=revision.author,
                    subject=revision.subject,
                    committed_at=revision.time.isoformat() if revision.time else "",
                    audited=revision.audited,
                    seen_at=now,
                    applied_at=now,
                    tree=json.dumps({e.path: [e.blob, e.size_bytes, e.mode] for e in entries}, sort_keys=True),
                ),
            )
            retry = desired.hub.orchestrator.retry.model_dump(mode="json", by_alias=True)
            self._store.set_meta("default_retry", json.dumps(retry))
            self._store.set_meta(APPLIED, revision.id)

    def _load(self, revision: Revision) -> Candidate:
        if self._last is not None and self._last.revision == revision.id:
            return self._last
        snapshot = self._source.snapshot(revision.id)
        if not isinstance(snapshot, Ok):
            reason = snapshot.reason if isinstance(snapshot, Unavailable) else "its tree is gone"
            raise SourceError(f"revision {revision.id[:12]} cannot be read: {reason}")
        self.close()
        self._snapshot = snapshot.value
        candidate = load_desired(
            snapshot.value, self._kinds, self._operator, self._cache, lambda: self._engine, self._verdicts
        )
        self._last = self._admitted(candidate)
        return self._last

    def _admitted(self, candidate: Candidate) -> Candidate:
        """The candidate after admission. A revision that is in force already is not asked about again."""
        desired = candidate.desired
        if desired is None or self._fresh_engine is None or desired.revision.id == self.applied:
            return candidate
        admission = admit(desired, self.last_good(), self._engine, self._fresh_engine)
        if admission.problems:
            return replace(candidate, desired=None, problems=admission.problems)
        return replace(candidate, desired=replace(desired, disputed=admission.disputed))
