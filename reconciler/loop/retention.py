"""What is kept no longer: old finished runs, contents of artefacts, snapshots and trees of revisions. Audit rows stay.

Looked at once an hour, between two passes, in the loop's own thread: nobody takes in a report or makes a snapshot
meanwhile. What may still be asked for stays, whatever its age: see `Needed`.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from reconciler.kinds.kind import Desired, World
from reconciler.kinds.workspace import workspace_name
from reconciler.loop.rollback import read_rollbacks
from reconciler.loop.run import Loop
from reconciler.store import records
from reconciler.store.audit import append
from reconciler.store.records import TaskRecord

EVERY_S = 3600.0
ENDED = frozenset({"succeeded", "failed", "timed_out", "cancelled", "rejected"})
"""States of a run after which nothing happens to it."""
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Needed:
    """What stays whatever its age.

    `names` are tasks in git: a finished run says that they need not run again. `runs` are what runs on their way depend
    on, or belong to; `revisions` what they and the fleet work on.
    """

    names: frozenset[str]
    runs: frozenset[str]
    revisions: frozenset[str]


class Retention:
    """Removes what is old, by `retention` of the `hub.yaml` in force."""

    def __init__(self, world: World, loop: Loop) -> None:
        self._world, self._loop = world, loop
        self._next_s = 0.0

    def look(self) -> None:
        """Once an hour; sooner while there is more than was removed at once. Raises StoreError."""
        now_s = self._world.clock.boottime()
        desired = self._loop.revisions.last_good()
        if now_s < self._next_s or desired is None:
            return
        removed = remove_old(self._world, desired)
        self._next_s = now_s if removed.get("runs", 0) == AT_ONCE else now_s + EVERY_S


def remove_old(world: World, desired: Desired) -> dict[str, int]:
    """Remove what is older than it is kept, and record how much that was. Raises StoreError."""
    now, keep = world.clock.now(), desired.hub.retention
    state_before = now - timedelta(seconds=keep.state)
    artefacts_before = now - timedelta(seconds=keep.artefacts)
    runs = records.tasks(world.store)
    needed = find_needed(runs, desired, world.store.get_meta("applied_revision") or "")
    kept = needed.revisions | {r.to for r in read_rollbacks(world.store)}
    old_runs = [r for r in ended(runs, needed, state_before) if r.name not in needed.names][:AT_ONCE]
    trees = [
        replace(r, tree="")
        for r in records.revisions(world.store)
        if r.tree and r.id not in kept and _is_before(r.applied_at, state_before)
    ]
    files = list(_old_artefacts(world, runs, needed, artefacts_before))
    folders = list(_old_snapshots(world, needed, artefacts_before))
    removed = {"runs": len(old_runs), "trees": len(trees), "artefacts": len(files), "snapshots": len(folders)}
    if not any(removed.values()):
        return removed
    counts = ", ".join(f"{count} {what}" for what, count in removed.items() if count)
    with world.store.transaction():
        records.delete_runs(world.store, [r.run for r in old_runs])
        for tree in trees:
            records.put_revision(world.store, tree)
        entry = world.entry(
            cause="ttl", kind="fleet", name=world.fleet, action="prune", outcome="applied", reason=f"removed {counts}"
        )
        append(world.store, [entry])
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        _remove_tree(folder)
    return removed


def find_needed(runs: Sequence[TaskRecord], desired: Desired, applied: str) -> Needed:
    """What git, or a run on its way, may ask for."""
    open_runs = [r for r in runs if r.state not in ENDED]
    waited_for = {name for r in open_runs for name in json.loads(r.manifest)["spec"].get("dependsOn", ())}
    return Needed(
        names=frozenset(desired.of("task")),
        runs=frozenset({r.parent for r in open_runs} | {r.run for r in runs if r.name in waited_for}),
        revisions=frozenset({desired.revision.id, applied, *(r.revision for r in open_runs)}),
    )


def ended(runs: Sequence[TaskRecord], needed: Needed, before: datetime) -> list[TaskRecord]:
    """Runs that ended before, and that no run on its way needs."""
    return [
        r
        for r in runs
        if r.state in ENDED and r.run not in needed.runs and _is_before(r.finished_at or r.created_at, before)
    ]


def _old_artefacts(world: World, runs: Sequence[TaskRecord], needed: Needed, before: datetime) -> Iterator[Path]:
    """Files that only results of runs that ended before refer to, or none at all."""
    old = {r.run for r in ended(runs, needed, before)}
    results = records.results(world.store, [r.run for r in runs if r.run not in old])
    kept = {artefact["sha256"] for found in results.values() for artefact in json.loads(found.artefacts)}
    for file in (world.state / "artefacts").glob("*/*"):
        if file.name not in kept and _is_older(file, before):
            yield file


def _old_snapshots(world: World, needed: Needed, before: datetime) -> Iterator[Path]:
    names = {workspace_name(revision) for revision in needed.revisions if revision}
    for folder in (world.state / "workspaces").glob("*/*"):
        if folder.name not in names and _is_older(folder, before):
            yield folder


def _is_older(path: Path, before: datetime) -> bool:
    try:
        return path.lstat().st_mtime < before.timestamp()
    except OSError:
        return False


def _is_before(time: str, before: datetime) -> bool:
    return bool(time) and datetime.fromisoformat(time) < before


def _remove_tree(folder: Path) -> None:
    """Snapshots are read-only, and are there whole or not at all. What cannot be removed is tried again later."""
    doomed = folder.with_name(f".{folder.name.lstrip('.')}")
    with suppress(OSError):
        folder.rename(doomed)
        for root, _folders, _files in os.walk(doomed):
            os.chmod(root, 0o700)
        shutil.rmtree(doomed)
