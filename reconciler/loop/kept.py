"""Revisions as the record keeps them: with the contents of their manifests, so that they need no git.

Kept are the one in force, and those that resources went back to.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from pydantic import ValidationError

from reconciler.core.yaml import MAX_BYTES, load_documents
from reconciler.errors import SourceError
from reconciler.kinds.kind import Desired, Kind
from reconciler.kinds.tree import SYMLINK_MODE, ParseCache, Tree
from reconciler.loop.desired import HUB_FILE, load_desired
from reconciler.loop.rollback import of_fleet, read_rollbacks
from reconciler.ports import Clock, Entry, PolicyEngine, Revision, SetAside, Snapshot
from reconciler.settings import Hub, HubSpec, OperatorSpec
from reconciler.store import records
from reconciler.store.records import RevisionRecord
from reconciler.store.store import Store

APPLIED, HEALTHY = "applied_revision", "healthy_revision"


def find_tip(store: Store) -> str:
    """What a newer revision has to descend from: what is in force, or was before the fleet went back; may be empty."""
    back = of_fleet(read_rollbacks(store))
    known = records.revision(store, back.since) if back is not None else None
    return known.id if known is not None and known.applied_at else store.get_meta(APPLIED) or ""


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


def read_accepted_hub(store: Store) -> HubSpec | None:
    """What `hub.yaml` of the applied revision says; None where this release cannot read it. Raises StoreError."""
    record = records.revision(store, store.get_meta(APPLIED) or "")
    if record is None or not record.tree:
        return None
    with suppress(SourceError, ValidationError):
        tree = Tree(snapshot=StoredSnapshot(record, store), cache=ParseCache())
        content = tree.file(HUB_FILE)
        documents = load_documents(content, HUB_FILE) if isinstance(content, bytes) else None
        if documents is not None and len(documents.values) == 1:
            return Hub.model_validate(documents.values[0]).spec
    return None


class Kept:
    """What is kept of one fleet."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        kinds: Sequence[Kind],
        operator: OperatorSpec,
        engine: Callable[[], PolicyEngine],
    ) -> None:
        self._store, self._clock, self._operator, self._engine = store, clock, operator, engine
        self._kinds = [replace(kind, verify=None) for kind in kinds]

    def load(self, revision: str) -> Desired | None:
        """A revision by the record alone; None where it is not kept, or not valid any more. Raises StoreError.

        Its policies were judged when it was accepted, and are not judged again.
        """
        record = records.revision(self._store, revision) if revision else None
        if record is None or not record.tree:
            return None
        try:
            snapshot = StoredSnapshot(record, self._store)
            return load_desired(snapshot, self._kinds, self._operator, ParseCache(), self._engine).desired
        except SourceError:
            return None

    def apply(self, snapshot: Snapshot, desired: Desired) -> None:
        """Keep the revision that is in force from now on. Raises StoreError, SourceError."""
        entries = _manifests(snapshot, desired)
        new = self._read_new(snapshot, entries)
        needed = {e.blob for e in entries} | self._went_back_to()
        now = self._clock.now().isoformat()
        with self._store.transaction():
            records.keep_blobs(self._store, new, records.blob_ids(self._store) - needed)
            records.put_revision(self._store, _record(desired.revision, entries, seen_at=now, applied_at=now))
            retry = desired.hub.orchestrator.retry.model_dump(mode="json", by_alias=True)
            self._store.set_meta("default_retry", json.dumps(retry))
            self._store.set_meta(APPLIED, desired.revision.id)

    def keep(self, snapshot: Snapshot, desired: Desired) -> None:
        """Keep a revision beside it, that a resource is about to go back to. Raises StoreError, SourceError."""
        entries = _manifests(snapshot, desired)
        new = self._read_new(snapshot, entries)
        known = records.revision(self._store, desired.revision.id)
        seen_at = known.seen_at if known is not None else self._clock.now().isoformat()
        applied_at = known.applied_at if known is not None else ""
        with self._store.transaction():
            records.keep_blobs(self._store, new, ())
            record = _record(desired.revision, entries, seen_at=seen_at, applied_at=applied_at)
            records.put_revision(self._store, record)

    def _read_new(self, snapshot: Snapshot, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        """Contents that are not there yet, by blob."""
        kept = records.blob_ids(self._store)
        new = list({e.blob: e for e in entries if e.blob not in kept}.values())
        contents = snapshot.read(new)
        return {e.blob: contents[e.path] for e in new}

    def _went_back_to(self) -> set[str]:
        """Blobs of the revisions that rollbacks name."""
        found = (records.revision(self._store, r.to) for r in read_rollbacks(self._store))
        trees = (json.loads(record.tree) for record in found if record is not None and record.tree)
        return {blob for tree in trees for blob, _, _ in tree.values()}


def _manifests(snapshot: Snapshot, desired: Desired) -> Sequence[Entry]:
    paths = desired.hub.paths
    entries = [
        e
        for folder in (paths.agents, paths.policies, paths.schemas, paths.tasks)
        for e in snapshot.entries(folder)
        if e.path.endswith((".yaml", ".rego", ".json")) and e.mode != SYMLINK_MODE and e.size_bytes <= MAX_BYTES
    ]
    return [*entries, *snapshot.entries(HUB_FILE)]


def _record(revision: Revision, entries: Sequence[Entry], *, seen_at: str, applied_at: str) -> RevisionRecord:
    return RevisionRecord(
        id=revision.id,
        author=revision.author,
        subject=revision.subject,
        committed_at=revision.time.isoformat() if revision.time else "",
        audited=revision.audited,
        seen_at=seen_at,
        applied_at=applied_at,
        tree=json.dumps({e.path: [e.blob, e.size_bytes, e.mode] for e in entries}, sort_keys=True),
    )
