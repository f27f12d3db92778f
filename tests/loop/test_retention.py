"""What is old goes, and what may still be asked for stays: runs, results, artefacts, snapshots, trees; audit rows all."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.agentd.artefacts import Artefact
from reconciler.kinds.task.state import FINAL
from reconciler.kinds.workspace import workspace_name
from reconciler.loop.retention import ENDED, EVERY_S, Retention, remove_old
from reconciler.store import audit, records
from reconciler.store.records import AttemptRecord, DroppedRecord, ResultRecord, TaskRecord
from tests.fakes.clock import START
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, hub_text, task_text

DAY_S = 86400.0
OLD = (START - timedelta(days=11)).isoformat()
RECENT = (START - timedelta(days=9)).isoformat()
HUB = hub_text(retention={"state": "10d", "artefacts": "10d"})


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    made = FakeFleet(tmp_path)
    made.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("in-git")}, hub=HUB)
    made.settle()
    yield made
    made.end_hub()


def put(fleet: FakeFleet, run: str, finished_at: str, **more: str) -> None:
    """A run with a result, an attempt, an artefact and the file that asked for it."""
    manifest = json.dumps({"spec": {"agent": "writer", "dependsOn": more.pop("depends_on", "").split()}})
    values: dict[str, Any] = {"name": run, "state": "succeeded", "source": "inbox", "manifest": manifest, **more}
    record = TaskRecord(run=run, spec_digest="1:x", created_at=OLD, finished_at=finished_at, **values)
    records.put_tasks(fleet.store, [record])
    listed = json.dumps([{"name": "report.md", "sha256": f"{run}-digest"}])
    records.put_result(fleet.store, ResultRecord(run=run, artefacts=listed))
    records.put_attempt(fleet.store, AttemptRecord(run=run, generation=1, instance="writer-0"))
    records.put_dropped(
        fleet.store,
        DroppedRecord(target=run, name=run, digest="d", signature="s", uid=0, run=run, claimed=True, answered=True),
    )
    age(keep(fleet.folder / "artefacts" / run[:2] / f"{run}-digest"), 11)


def keep(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def age(path: Path, days: float) -> None:
    time_s = START.timestamp() - days * DAY_S
    os.utime(path, (time_s, time_s))


def remove(fleet: FakeFleet) -> dict[str, int]:
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    return {what: count for what, count in remove_old(fleet.world, desired).items() if count}


def runs(fleet: FakeFleet) -> set[str]:
    return {t.run for t in fleet.tasks() if t.name != "in-git"}


def artefacts(fleet: FakeFleet) -> set[str]:
    return {p.name.removesuffix("-digest") for p in (fleet.folder / "artefacts").glob("*/*")}


def test_old_finished_runs_go_with_all_that_belongs_to_them(fleet: FakeFleet) -> None:
    for run, time in (("old", OLD), ("recent", RECENT)):
        put(fleet, run, time)
    put(fleet, "going", "", state="running")
    assert remove(fleet) == {"runs": 1, "artefacts": 1}
    assert runs(fleet) == artefacts(fleet) == {"recent", "going"}
    assert records.results(fleet.store, ["old", "recent"]).keys() == {"recent"}
    assert records.attempts(fleet.store, "old") == []
    assert remove(fleet) == {}


def test_what_git_names_stays_on_record_so_that_it_does_not_run_again(fleet: FakeFleet) -> None:
    put(fleet, "first", OLD, name="in-git")
    assert remove(fleet) == {"artefacts": 1}
    fleet.clock.advance(400 * DAY_S)
    remove(fleet)
    assert {t.state for t in fleet.tasks()} == {"succeeded"}
    assert len(fleet.agents.executed) == 1
    fleet.settle()
    assert len(fleet.agents.executed) == 1


def test_what_a_run_on_its_way_needs_stays(fleet: FakeFleet) -> None:
    for run in ("parent", "before", "old"):
        put(fleet, run, OLD)
    put(fleet, "child", "", state="running", parent="parent", depends_on="before")
    assert remove(fleet) == {"runs": 1, "artefacts": 1}
    assert runs(fleet) == artefacts(fleet) == {"parent", "before", "child"}


def test_a_file_that_a_younger_result_shares_or_that_is_young_itself_stays(fleet: FakeFleet) -> None:
    put(fleet, "old", OLD)
    put(fleet, "recent", RECENT)
    shared = json.dumps([{"name": "report.md", "sha256": "old-digest"}])
    records.put_result(fleet.store, ResultRecord(run="recent", artefacts=shared))
    keep(fleet.folder / "artefacts" / "aa" / "being-written")
    assert remove(fleet) == {"runs": 1, "artefacts": 1}
    assert artefacts(fleet) == {"old", "being-written"}


def test_what_an_agent_reported_is_kept_as_long_as_its_run(fleet: FakeFleet) -> None:
    """In the form in which reports come in, so that what receives and what removes mean the same."""
    fleet.agents.holding.add("made")
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("made")}, hub=HUB)
    for _ in range(4):
        fleet.run()
        fleet.agents.step()
    run = fleet.task("made").run
    reported = {"exit_code": 0, "result": None, "artefacts": [Artefact("report.md", b"found").to_json()]}
    fleet.router.post("writer-0", "task.completed", {"task": "made", "run": run, "generation": 1, **reported})
    fleet.run()
    (file,) = (fleet.folder / "artefacts").glob("*/*")
    age(file, 11)
    assert (fleet.task("made").state, remove(fleet)) == ("succeeded", {})
    assert file.read_bytes() == b"found"


def test_old_snapshots_go_but_for_those_in_use(fleet: FakeFleet) -> None:
    applied = fleet.store.get_meta("applied_revision") or ""
    put(fleet, "going", "", state="running", revision="0123456789abcdef")
    folder = fleet.folder / "workspaces" / "full"
    for name, days in ((workspace_name(applied), 11), ("0123456789ab", 11), ("unused", 11), ("young", 9)):
        file = keep(folder / name / "src" / "file")
        file.chmod(0o444)
        age(folder / name, days)
        for place in (folder / name / "src", folder / name):
            place.chmod(0o555)
    assert remove(fleet) == {"snapshots": 1}
    assert {p.name for p in folder.iterdir()} == {workspace_name(applied), "0123456789ab", "young"}


def test_trees_of_old_revisions_go_but_not_that_of_the_one_in_force(fleet: FakeFleet) -> None:
    first = fleet.store.get_meta("applied_revision") or ""
    fleet.commit({"agents.d/a.yaml": agent_text(version="2"), "tasks.d/t.yaml": task_text("in-git")}, hub=HUB)
    fleet.settle()
    second = fleet.store.get_meta("applied_revision") or ""
    fleet.clock.advance(11 * DAY_S)
    assert remove(fleet) == {"trees": 1}
    trees = {r.id: bool(r.tree) for r in records.revisions(fleet.store)}
    assert trees == {first: False, second: True}
    fleet.restart()
    assert fleet.loop.revisions.last_good() is not None


def test_audit_rows_stay_and_one_says_what_was_removed(fleet: FakeFleet) -> None:
    put(fleet, "old", OLD)
    before = len(fleet.audit())
    remove(fleet)
    assert audit.verify_chain(fleet.store) == (before + 1, "")
    last = fleet.audit()[-1]
    assert (last.cause, last.action, last.reason) == ("ttl", "prune", "removed 1 runs, 1 artefacts")


def test_it_is_looked_at_once_an_hour(fleet: FakeFleet) -> None:
    retention = Retention(fleet.world, fleet.loop)
    retention.look()
    put(fleet, "old", OLD)
    retention.look()
    assert runs(fleet) == {"old"}
    fleet.clock.advance(EVERY_S)
    retention.look()
    assert runs(fleet) == set()


def test_a_state_that_ends_a_run_is_one_here_too() -> None:
    assert {str(state) for state in FINAL} == ENDED
