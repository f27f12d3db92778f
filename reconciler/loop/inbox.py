"""Manifests dropped as files: from the inbox folder to recorded runs, and their results back beside the files.

Order of the effects, so that a kill between any two is repaired by the next look: the run is recorded (with the
file's digest and owner) together with where the file will go, then the file is claimed by rename, later the result is
written beside it. A file that is already recorded is claimed without a second run.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from reconciler.core.problem import Problem
from reconciler.core.reading import Ok
from reconciler.crashpoint import point
from reconciler.errors import SourceError
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.manifest import Manifest, place_problems
from reconciler.kinds.task.apply import new_run
from reconciler.kinds.task.check import check_dropped
from reconciler.kinds.task.spec import TaskSpec, parse_task
from reconciler.kinds.task.state import FINAL
from reconciler.loop.conditions import Fault
from reconciler.loop.run import Loop
from reconciler.source.dropped import Candidate
from reconciler.source.inbox import Inbox, Verdict
from reconciler.store import records
from reconciler.store.audit import append
from reconciler.store.records import DroppedRecord, TaskRecord
from reconciler.store.store import Store

RETRY_S = 5.0
KEY_ANNOTATION = "idempotency-key"
MAX_KEY = 200


class RefusedManifest(Exception):  # noqa: N818 - an answer, not an error of ours
    """The manifest cannot be taken; the message says why and what to do."""


def parse_dropped(file: str, content: bytes, desired: Desired) -> Manifest[TaskSpec]:
    """One task manifest that came as a file or by the API. Raises RefusedManifest with every problem."""
    parsed = parse_task(file, content)
    problems: Sequence[Problem] = parsed.problems
    if not problems and len(parsed.manifests) != 1:
        raise RefusedManifest(f"{file}: holds {len(parsed.manifests)} manifests; a dropped file holds one")
    if not problems:
        problems = place_problems(check_dropped(parsed.manifests[0], desired), lambda _file: content)
    if problems:
        raise RefusedManifest("\n".join(str(p) for p in problems))
    return parsed.manifests[0]


def record_dropped(
    manifest: Manifest[TaskSpec],
    content_digest: str,
    world: World,
    desired: Desired,
    *,
    source: str,
    uid: int,
    key: str = "",
    actor: str = "",
) -> TaskRecord:
    """The run of a dropped manifest: a new one, or the one that this very manifest already has.

    With a `key`, or one among its annotations, it is the run that this submitter (`uid`) asked for under that key.
    Raises RefusedManifest where git defines a task of that name, while another run of that name is not finished, and
    where the key was used for another manifest.
    """
    key = _key(manifest, key)
    with world.store.transaction():
        runs = [run for run in records.tasks_of(world.store, manifest.name) if run.name == manifest.name]
        known = records.tasks_with_key(world.store, key) if key else runs
        if (run := _asked_before(known, manifest, source, uid, key)) is not None:
            return run
        if manifest.name in desired.of("task"):
            raise RefusedManifest(f"task {manifest.name!r} is defined in git; choose another name")
        for run in runs:
            if run.state not in FINAL:
                raise RefusedManifest(
                    f"task {run.name!r} is {run.state} with another manifest or key (run {run.run}, from "
                    f"{run.source}); wait for it, cancel it, or choose another name"
                )
        run = new_run(manifest, desired, source=source, now=world.clock.now(), uid=uid, key=key)
        records.put_tasks(world.store, [run])
        append(
            world.store,
            [
                world.entry(
                    revision=desired.revision.id,
                    actor=actor or f"uid:{uid}",
                    cause=source,
                    kind="task",
                    name=run.name,
                    action="create",
                    outcome="applied",
                    reason=f"{manifest.file} (sha256 {content_digest[:16]})",
                    after=run.manifest[:4000],
                )
            ],
        )
        return run


def _key(manifest: Manifest[TaskSpec], given: str) -> str:
    """The idempotency key of a submission; empty where there is none."""
    written = manifest.annotations.get(KEY_ANNOTATION, "")
    if given and written and given != written:
        raise RefusedManifest(
            f"its annotation {KEY_ANNOTATION} is another key than the one given; leave one of them out"
        )
    key = given or written
    if len(key) > MAX_KEY or not key.isprintable():
        raise RefusedManifest(f"an idempotency key has at most {MAX_KEY} characters, all of which print")
    return key


def _asked_before(
    known: Sequence[TaskRecord], manifest: Manifest[TaskSpec], source: str, uid: int, key: str
) -> TaskRecord | None:
    """The run that this submission already has: by its key, or without one by name and content."""
    is_same = (manifest.name, manifest.digest)
    if not key:
        return next((r for r in reversed(known) if (r.name, r.spec_digest, r.source) == (*is_same, source)), None)
    run = next((r for r in known if r.key == key and r.uid == uid), None)
    if run is not None and (run.name, run.spec_digest) != is_same:
        raise RefusedManifest(
            f"the key {key!r} was used for another manifest (task {run.name}, run {run.run}); use a new key"
        )
    return run


def take_dropped(inbox: Inbox, world: World, desired: Desired) -> float | None:
    """One look at the inbox: take what has rested, answer what has ended. Seconds until the next look is due.

    Raises StoreError, SourceError.
    """
    _answer(inbox, world)
    scan = inbox.scan(world.clock.boottime())
    if not isinstance(scan, Ok):
        return None
    for refused in scan.value.refused:
        target = inbox.reject(refused, refused.reason)
        _note_rejected(refused.name, refused.uid, f"{refused.reason} ({target})", world, desired)
    for candidate in scan.value.candidates:
        _take(candidate, inbox, world, desired)
    return scan.value.again_in_s


class InboxStep:
    """The inbox as one step before each pass. Its folder is made where git gives it a place, as often as it is gone."""

    def __init__(self, root: str, world: World, loop: Loop) -> None:
        self._root, self._world, self._loop = root, world, loop
        self._inbox: Inbox | None = None
        self._again_s: float | None = None
        self._fault = ""

    def look(self) -> None:
        """Take and answer. A folder that cannot be used is a fault, and left for the next look. Raises StoreError."""
        desired = self._loop.revisions.last_good()
        if desired is None:
            return
        folder = desired.hub.paths.inbox
        try:
            if self._inbox is None or not self._inbox.path.endswith(f"/{folder}"):
                inbox = Inbox(self._root, folder)
                inbox.is_there()
                inbox.prepare()
                self._inbox = inbox
            elif not self._inbox.is_there():
                self._inbox.prepare()
            self._again_s, self._fault = take_dropped(self._inbox, self._world, desired), ""
        except SourceError as exc:
            why = getattr(exc.__cause__, "strerror", None) or ""
            self._again_s, self._fault = RETRY_S, str(exc) if why in str(exc) else f"{exc}: {why}"

    def answer(self) -> None:
        """Put results beside the files whose tasks have ended by now. Raises StoreError."""
        if self._inbox is not None:
            with suppress(SourceError):
                _answer(self._inbox, self._world)

    def faults(self) -> Sequence[Fault]:
        """The condition that nothing can be dropped, while that is so."""
        return [("InboxUnusable", "NoFolder", self._fault)] if self._fault else []

    def again_in_s(self) -> float | None:
        """When something that is waiting may be ready."""
        return self._again_s

    def watch_paths(self) -> Sequence[str]:
        return [self._inbox.path] if self._inbox is not None else []


def _take(candidate: Candidate, inbox: Inbox, world: World, desired: Desired) -> None:
    known = next((d for d in records.dropped_as(world.store, candidate.name) if _is_same(d, candidate)), None)
    if known is None:
        try:
            manifest = parse_dropped(candidate.name, candidate.content, desired)
            target = inbox.choose_target(candidate, Verdict.ACCEPTED)
            point("inbox.record.before")
            with world.store.transaction():
                run = record_dropped(manifest, candidate.digest, world, desired, source="inbox", uid=candidate.uid)
                known = DroppedRecord(
                    target=target,
                    name=candidate.name,
                    digest=candidate.digest,
                    signature=str(candidate.signature),
                    uid=candidate.uid,
                    run=run.run,
                )
                records.put_dropped(world.store, known)
            point("inbox.record.after")
        except RefusedManifest as exc:
            target = inbox.reject(candidate, str(exc))
            _note_rejected(candidate.name, candidate.uid, f"{exc} ({target})", world, desired)
            return
    inbox.claim(candidate, known.target)
    records.put_dropped(world.store, replace(known, claimed=True))


def _is_same(known: DroppedRecord, candidate: Candidate) -> bool:
    return (known.name, known.digest, known.signature) == (candidate.name, candidate.digest, str(candidate.signature))


def _answer(inbox: Inbox, world: World) -> None:
    """Put the result beside each claimed file whose run has ended."""
    for known in records.dropped_and_over(world.store):
        # A file that is not claimed yet would be taken for a new one as soon as it counted as answered.
        if not known.claimed and not os.path.lexists(os.path.join(inbox.path, known.target)):
            continue
        run = records.task(world.store, known.run)
        if run is None or run.state not in FINAL:
            continue
        inbox.write_result(known.target, result_document(world.store, run))
        records.put_dropped(world.store, replace(known, claimed=True, answered=True))


def _note_rejected(name: str, uid: int, reason: str, world: World, desired: Desired) -> None:
    append(
        world.store,
        [
            world.entry(
                revision=desired.revision.id,
                actor=f"uid:{uid}",
                cause="inbox",
                kind="task",
                name=name[:200],
                action="create",
                outcome="refused",
                reason=reason[:1000],
            )
        ],
    )


def result_document(store: Store, run: TaskRecord) -> dict[str, object]:
    """What is written beside a file whose task ended: state, result and artefacts."""
    found = records.results(store, [run.run]).get(run.run)
    return {
        "task": run.name,
        "run": run.run,
        "state": run.state,
        "reason": run.reason,
        "agent": run.agent,
        "instance": run.instance,
        "attempts": run.attempts,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
        "result": json.loads(found.result) if found else None,
        "error": found.error if found else "",
        "artefacts": json.loads(found.artefacts) if found else [],
    }
