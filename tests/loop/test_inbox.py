"""Dropped manifests: from a file to a run, and its result back beside the file; once, whenever the hub dies."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.change import Cause
from reconciler.kinds.kind import Desired
from reconciler.loop.inbox import InboxStep, RefusedManifest, parse_dropped, record_dropped, take_dropped
from reconciler.source.inbox import Inbox
from reconciler.store import records
from tests.fakes.desired import desired_of as load_desired_of
from tests.fakes.fleet import FakeFleet
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, task_text


@pytest.fixture
def fleet(fleet: FakeFleet) -> FakeFleet:
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("in-git")})
    fleet.settle()
    return fleet


@pytest.fixture
def inbox(fleet: FakeFleet) -> Inbox:
    made = Inbox(str(fleet.folder), "inbox")
    made.prepare()
    return made


def desired_of(fleet: FakeFleet) -> Desired:
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    return desired


def drop(fleet: FakeFleet, text: str, name: str = "job.yaml") -> None:
    (fleet.folder / "inbox" / name).write_text(text)


def look(fleet: FakeFleet, inbox: Inbox) -> None:
    """Two looks, a rest apart."""
    for _ in range(2):
        take_dropped(inbox, fleet.world, desired_of(fleet))
        fleet.clock.advance(0.5)


def files(fleet: FakeFleet) -> list[str]:
    root = fleet.folder / "inbox"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def result(fleet: FakeFleet, name: str = "job") -> dict[str, Any]:
    value: dict[str, Any] = json.loads((fleet.folder / "inbox" / "accepted" / f"{name}.result.json").read_text())
    return value


def test_a_dropped_manifest_becomes_a_run_with_its_owner_and_its_result_comes_back(
    fleet: FakeFleet, inbox: Inbox
) -> None:
    drop(fleet, task_text("job"))
    look(fleet, inbox)
    run = fleet.task("job")
    assert (run.state, run.source, run.uid) == ("pending", "inbox", (fleet.folder / "inbox").stat().st_uid)
    assert files(fleet) == ["accepted/job.yaml"]
    fleet.settle()
    look(fleet, inbox)
    assert files(fleet) == ["accepted/job.result.json", "accepted/job.yaml"]
    answer = result(fleet)
    assert {k: answer[k] for k in ("task", "run", "state", "result", "agent", "instance", "attempts")} == {
        "task": "job",
        "run": run.run,
        "state": "succeeded",
        "result": {"by": "writer-0"},
        "agent": "writer",
        "instance": "writer-0",
        "attempts": 1,
    }
    row = next(e for e in fleet.audit() if (e.name, e.action) == ("job", "create"))
    assert (row.actor, row.cause, row.outcome) == (f"uid:{run.uid}", "inbox", "applied")
    assert '"agent": "writer"' in row.after
    assert {e.cause for e in fleet.audit() if e.name == "job" and e.kind == "task"} == {str(Cause.INBOX)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [\n", "job.yaml:2:1: is not valid YAML"),
        (task_text("job", agnt="x"), "job.yaml:6:3: unknown key 'agnt' in spec; did you mean 'agent'?"),
        (task_text("job", agent="nobody"), "job.yaml:5:3: agent 'nobody' is not defined; agents are: writer"),
        (task_text("a") + "---\n" + task_text("b"), "job.yaml: holds 2 manifests; a dropped file holds one"),
        ("", "job.yaml: is empty"),
        (task_text("in-git", prompt="another"), "task 'in-git' is defined in git; choose another name"),
    ],
)
def test_a_manifest_that_cannot_be_taken_comes_back_with_the_reason(
    fleet: FakeFleet, inbox: Inbox, text: str, said: str
) -> None:
    before = len(fleet.tasks())
    drop(fleet, text)
    look(fleet, inbox)
    assert files(fleet) == ["rejected/job.error.txt", "rejected/job.yaml"]
    assert (fleet.folder / "inbox" / "rejected" / "job.error.txt").read_text().startswith(said)
    assert len(fleet.tasks()) == before
    row = fleet.audit()[-1]
    assert (row.cause, row.outcome, row.name) == ("inbox", "refused", "job.yaml")


def test_a_name_that_git_defines_is_taken_before_its_task_has_a_run(fleet: FakeFleet, inbox: Inbox) -> None:
    in_git = {"agents.d/a.yaml": agent_text(), "tasks.d/new.yaml": task_text("new")}
    for desired in (load_desired_of(in_git), load_desired_of({"agents.d/a.yaml": agent_text()})):
        drop(fleet, task_text("new", prompt="another"))
        for _ in range(2):
            take_dropped(inbox, fleet.world, desired)
            fleet.clock.advance(0.5)
    said = (fleet.folder / "inbox" / "rejected" / "job.error.txt").read_text()
    assert said.startswith("task 'new' is defined in git; choose another name")
    assert [t.source for t in fleet.tasks() if t.name == "new"] == ["inbox"], "it is free where git does not define it"


def test_what_was_dropped_before_git_took_its_name_keeps_its_run(fleet: FakeFleet, inbox: Inbox) -> None:
    drop(fleet, task_text("job"))
    look(fleet, inbox)
    run = fleet.task("job").run
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/job.yaml": task_text("job", prompt="of git")})
    fleet.settle()
    drop(fleet, "# again\n" + task_text("job"), "again.yaml")
    look(fleet, inbox)
    look(fleet, inbox)
    assert result(fleet, "again")["run"] == run


def test_every_odd_thing_gets_a_reason_and_a_row_and_keeps_nothing_else_from_being_taken(
    fleet: FakeFleet, inbox: Inbox
) -> None:
    root = fleet.folder / "inbox"
    os.mkfifo(root / "fifo.yaml")
    (root / "link.yaml").symlink_to("/etc/passwd")
    (root / "folder.yaml").mkdir()
    with (root / "large.yaml").open("wb") as large:
        large.truncate(100 * 2**20)
    (root / "latin.yaml").write_bytes(b"a: \xe9\n")
    (root / "nul.yaml").write_bytes(b"a: \0\n")
    drop(fleet, task_text("ending"), "ending.yml")
    drop(fleet, agent_text(), "agent.yaml")
    drop(fleet, task_text("good"), "good.yaml")
    drop(fleet, task_text("removed"), "removed.yaml")
    take_dropped(inbox, fleet.world, desired_of(fleet))
    (root / "removed.yaml").unlink()
    fleet.clock.advance(0.5)
    look(fleet, inbox)
    reasons = {p.name.removesuffix(".error.txt"): p.read_text() for p in (root / "rejected").glob("*.error.txt")}
    assert reasons == {
        "fifo": "it is a FIFO; drop a regular file\n",
        "link": "it is a symbolic link; drop a regular file\n",
        "folder": "it is a directory; drop a regular file\n",
        "large": "it has 104857600 bytes; at most 1048576 are taken; drop a smaller one\n",
        "latin": "latin.yaml:1:4: is not UTF-8 text; save the file as UTF-8\n",
        "nul": "nul.yaml:1:4: contains a NUL character; remove it\n",
        "ending": "its name does not end in .yaml; drop it again under one that does\n",
        "agent": "agent.yaml:2:1: kind is 'Agent'; expected 'Task'\n",
    }
    assert len([e for e in fleet.audit() if (e.cause, e.outcome) == ("inbox", "refused")]) == len(reasons)
    assert fleet.task("good").state == "pending"
    assert sorted(t.name for t in fleet.tasks()) == ["good", "in-git"]
    assert [p.name for p in root.iterdir() if not p.is_dir()] == []


def test_a_file_that_is_still_written_is_taken_whole_when_it_is_done(fleet: FakeFleet, inbox: Inbox) -> None:
    text = task_text("job", prompt="the end")
    with (fleet.folder / "inbox" / "job.yaml").open("w") as out:
        for part in (text[:40], text[40:80]):
            out.write(part)
            out.flush()
            look(fleet, inbox)
            assert files(fleet) == ["job.yaml"]
        out.write(text[80:])
    look(fleet, inbox)
    assert files(fleet) == ["accepted/job.yaml"]
    assert '"prompt": "the end"' in fleet.task("job").manifest


def test_the_same_name_twice_is_two_files_with_an_answer_each(fleet: FakeFleet, inbox: Inbox) -> None:
    for name in ("first", "second"):
        drop(fleet, task_text(name))
        look(fleet, inbox)
    fleet.settle()
    look(fleet, inbox)
    results = [json.loads(p.read_text()) for p in (fleet.folder / "inbox" / "accepted").glob("job*.result.json")]
    assert sorted((r["task"], r["state"]) for r in results) == [("first", "succeeded"), ("second", "succeeded")]


def test_another_manifest_of_the_same_name_waits_until_the_first_is_done(fleet: FakeFleet, inbox: Inbox) -> None:
    drop(fleet, task_text("job"))
    look(fleet, inbox)
    drop(fleet, task_text("job", prompt="other"), "other.yaml")
    look(fleet, inbox)
    said = (fleet.folder / "inbox" / "rejected" / "other.error.txt").read_text()
    assert said.startswith("task 'job' is pending with another manifest")
    fleet.settle()
    drop(fleet, task_text("job", prompt="other"), "other.yaml")
    look(fleet, inbox)
    assert [t.state for t in fleet.tasks() if t.name == "job"] == ["succeeded", "pending"]


def test_the_same_manifest_again_is_the_same_run_and_gets_the_same_answer(fleet: FakeFleet, inbox: Inbox) -> None:
    drop(fleet, task_text("job"))
    look(fleet, inbox)
    drop(fleet, "# again\n" + task_text("job"), "again.yaml")
    look(fleet, inbox)
    fleet.settle()
    look(fleet, inbox)
    assert len([t for t in fleet.tasks() if t.name == "job"]) == 1
    assert result(fleet)["run"] == result(fleet, "again")["run"]


def test_a_task_that_failed_says_why(fleet: FakeFleet, inbox: Inbox) -> None:
    fleet.agents.failing["job"] = 99
    drop(fleet, task_text("job", retries={"maxAttempts": 1}))
    look(fleet, inbox)
    fleet.settle()
    look(fleet, inbox)
    answer = result(fleet)
    assert (answer["state"], answer["error"], answer["result"]) == ("failed", "it broke", None)
    assert answer["reason"] == "failed on writer-0: it broke (attempt 1 of 1)"


@pytest.mark.parametrize("blow_at", range(1, 5))
def test_a_kill_neither_loses_a_dropped_file_nor_runs_it_twice(fleet: FakeFleet, blow_at: int) -> None:
    first = Inbox(str(fleet.folder), "inbox")
    first.prepare()
    drop(fleet, task_text("job"))
    take_dropped(first, fleet.world, desired_of(fleet))
    fleet.clock.advance(1)
    desired = desired_of(fleet)
    fleet.end_hub()
    fleet.start_hub(Fuse(blow_at))
    with pytest.raises(KilledError):
        take_dropped(first, fleet.world, desired)
    fleet.restart()
    look(fleet, Inbox(str(fleet.folder), "inbox"))
    fleet.settle()
    look(fleet, Inbox(str(fleet.folder), "inbox"))
    assert [t.state for t in fleet.tasks() if t.name == "job"] == ["succeeded"]
    assert files(fleet) == ["accepted/job.result.json", "accepted/job.yaml"]
    assert records.dropped(fleet.store) == []


def test_the_step_before_each_pass_makes_the_folder_and_says_when_to_look_again(fleet: FakeFleet) -> None:
    step = InboxStep(str(fleet.folder), fleet.world, fleet.loop)
    step.look()
    assert (fleet.folder / "inbox" / "accepted").is_dir()
    assert step.again_in_s() is None
    drop(fleet, task_text("job"))
    step.look()
    again = step.again_in_s()
    assert again is not None
    assert 0 < again < 0.25
    fleet.clock.advance(again + 0.01)
    step.look()
    assert fleet.task("job").state == "pending"
    fleet.settle()
    step.answer()
    assert result(fleet)["state"] == "succeeded"


def test_without_a_revision_nothing_is_taken(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    (tmp_path / "inbox").mkdir()
    drop(fleet, task_text("job"))
    step = InboxStep(str(tmp_path), fleet.world, fleet.loop)
    step.look()
    step.answer()
    assert files(fleet) == ["job.yaml"]
    fleet.end_hub()


def test_a_folder_that_cannot_be_used_is_tried_again_later(fleet: FakeFleet) -> None:
    (fleet.folder / "inbox").write_text("in the way")
    step = InboxStep(str(fleet.folder), fleet.world, fleet.loop)
    step.look()
    assert step.again_in_s() == 5.0
    (fleet.folder / "inbox").unlink()
    step.look()
    assert (fleet.folder / "inbox").is_dir()


def test_a_folder_that_is_removed_is_made_again(fleet: FakeFleet) -> None:
    step = InboxStep(str(fleet.folder), fleet.world, fleet.loop)
    step.look()
    shutil.rmtree(fleet.folder / "inbox")
    step.look()
    assert (fleet.folder / "inbox" / "accepted").is_dir()
    assert step.faults() == []


@pytest.mark.parametrize("was_there", [False, True])
def test_a_link_in_place_of_the_folder_is_not_followed_and_said(fleet: FakeFleet, was_there: bool) -> None:
    step = InboxStep(str(fleet.folder), fleet.world, fleet.loop)
    if was_there:
        step.look()
        shutil.rmtree(fleet.folder / "inbox")
    (fleet.folder / "elsewhere").mkdir()
    (fleet.folder / "inbox").symlink_to("elsewhere")
    step.look()
    (fault,) = step.faults()
    assert fault[0] == "InboxUnusable"
    assert "is not a directory, or reached through a link; remove it" in fault[2]
    assert list((fleet.folder / "elsewhere").iterdir()) == []
    (fleet.folder / "inbox").unlink()
    step.look()
    assert step.faults() == []


def test_what_a_dead_hub_left_half_written_goes_at_the_first_look(fleet: FakeFleet) -> None:
    half = fleet.folder / "inbox" / "accepted" / ".job.result.json.0a1b2c3d.partial"
    half.parent.mkdir(parents=True)
    half.touch()
    InboxStep(str(fleet.folder), fleet.world, fleet.loop).look()
    assert not half.exists()


def test_a_manifest_by_the_api_is_taken_in_the_same_way(fleet: FakeFleet) -> None:
    desired = desired_of(fleet)
    manifest = parse_dropped("submitted", task_text("job").encode(), desired)
    run = record_dropped(manifest, "0" * 64, fleet.world, desired, source="api", uid=7)
    assert (run.source, run.uid) == ("api", 7)
    assert record_dropped(manifest, "0" * 64, fleet.world, desired, source="api", uid=8) == run
    with pytest.raises(RefusedManifest, match="submitted:6:3: unknown key"):
        parse_dropped("submitted", task_text("job", agnt="x").encode(), desired)
    fleet.settle()
    assert fleet.task("job").state == "succeeded"
