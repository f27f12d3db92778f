"""Places that cannot be used: repositories, data directories, run-time directories. Each has a clear answer."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.flows.fleet import Fleet, agent_text, eventually, make_fleet, need_engine, task_text
from tests.flows.test_hub import audit, containers, running

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = make_fleet("process")
    yield made
    made.destroy()


def test_a_repository_without_a_commit_says_so(fleet: Fleet) -> None:
    answer = fleet.call("validate", str(fleet.repository))
    assert answer.code == 1
    assert "no commit" in answer.err


def test_a_repository_without_hub_yaml_says_what_to_write(fleet: Fleet) -> None:
    (fleet.repository / "README.md").write_text("hello\n")
    fleet.git("add", "-A")
    fleet.git("commit", "-q", "-m", "no hub")
    answer = fleet.call("validate", str(fleet.repository))
    assert answer.code == 1
    assert "hub.yaml: is missing; a repository needs one" in answer.err


def test_a_detached_head_is_not_deployed(fleet: Fleet) -> None:
    first = fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply().code == 0
    fleet.commit({"agents.d/a.yaml": agent_text("a"), "agents.d/b.yaml": agent_text("b")})
    fleet.git("checkout", "-q", "--detach", first)
    answer = fleet.apply()
    assert answer.code == 2
    assert "SourceUnsettled" in answer.out
    assert [i["name"] for i in fleet.state()["instances"]] == ["a-0"]


def test_a_rebase_in_progress_is_not_deployed_and_its_end_is(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply().code == 0
    before = fleet.state()["instances"]
    fleet.git("switch", "-q", "-c", "side")
    fleet.commit({"agents.d/a.yaml": agent_text("a", memory="64MiB")})
    fleet.git("switch", "-q", "main")
    fleet.commit({"agents.d/a.yaml": agent_text("a", memory="96MiB")})
    with pytest.raises(subprocess.CalledProcessError):
        fleet.git("rebase", "side")
    answer = fleet.apply()
    assert answer.code == 2
    said = " ".join(line for line in answer.out.split())
    assert f"a rebase is in progress in {fleet.repository}; end it with git rebase --continue or --abort" in said
    assert fleet.state()["instances"] == before
    fleet.git("rebase", "--abort")
    assert fleet.apply().code == 0
    assert fleet.check() == []


def test_a_path_that_is_no_directory_is_refused_as_usage(fleet: Fleet) -> None:
    answer = fleet.call("plan", str(fleet.folder / "nowhere"))
    assert answer.code == 64
    assert "is not a directory" in answer.err


def test_a_second_hub_on_the_same_data_is_refused(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    hub = fleet.start("run", *fleet.places, *fleet.permission)
    try:
        eventually(lambda: (fleet.data / "lock").exists() and bool((fleet.data / "lock").read_text().strip()))
        answer = fleet.apply()
        assert hub.poll() is None
    finally:
        hub.terminate()
        hub.communicate(timeout=180)
    assert answer.code == 1
    assert f"another hub (pid {hub.pid}) runs on {fleet.data}" in answer.err


def test_a_data_directory_of_another_fleet_is_refused(fleet: Fleet) -> None:
    fleet.commit({})
    assert fleet.apply().code == 0
    identity = json.loads((fleet.data / "fleet.json").read_text())
    real = identity["fleet"]
    (fleet.data / "fleet.json").write_text(json.dumps({**identity, "fleet": "00000000"}))
    answer = fleet.apply()
    (fleet.data / "fleet.json").write_text(json.dumps(identity))
    assert answer.code == 1
    assert f"mixes two fleets: its state belongs to {real}" in answer.err


def test_the_data_of_another_repository_is_refused(fleet: Fleet) -> None:
    fleet.commit({})
    assert fleet.apply().code == 0
    other = fleet.folder / "other"
    shutil.copytree(fleet.repository, other)
    answer = fleet.call("apply", "--source", str(other), "--data", str(fleet.data), *fleet.permission)
    assert answer.code == 1
    assert f"holds the fleet of {fleet.repository}" in answer.err


def test_a_run_directory_with_too_long_a_path_is_refused(fleet: Fleet) -> None:
    fleet.commit({})
    answer = fleet.apply(env={"RECONCILER_RUN": f"{fleet.folder}/{'x' * 60}"})
    assert answer.code == 64
    assert "the system allows 107" in answer.err
    assert "RECONCILER_RUN" in answer.err


@needs_root
def test_a_read_only_data_directory_says_what_to_do(fleet: Fleet) -> None:
    fleet.commit({})
    with mounted(fleet.data, "ro"):
        answer = fleet.apply()
    assert answer.code == 1
    assert (
        f"the data directory {fleet.data} cannot be used: Read-only file system; name another with --data" in answer.err
    )


@needs_root
def test_a_full_disk_stops_nothing_that_runs_and_loses_nothing(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with mounted(fleet.data, "size=64m"):
        assert fleet.apply().code == 0
        filler = fleet.data / "filler"
        with filler.open("wb", buffering=0) as out, suppress(OSError):
            while out.write(b"x" * 4096):
                pass
        fleet.commit({"agents.d/a.yaml": agent_text("a"), "agents.d/b.yaml": agent_text("b")})
        answer = fleet.call("apply", *fleet.places, *fleet.permission, "--timeout", "5")
        assert answer.code != 0
        assert "disk is full" in answer.out + answer.err
        assert [f for f in fleet.check() if "b-0" not in f] == []
        filler.unlink()
        answer = fleet.apply()
        assert answer.code == 0, answer
        assert fleet.check() == []
        fleet.call("down", "--now", *fleet.places)


class mounted:  # noqa: N801 - reads as a statement
    """A tmpfs at `folder` while inside."""

    def __init__(self, folder: Path, options: str) -> None:
        self.folder, self.options = folder, options

    def __enter__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", str(self.folder)], check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.mark.engine
def test_a_lost_data_directory_is_noticed_and_its_fleet_can_be_recycled() -> None:
    need_engine("docker")
    fleet = make_fleet("docker")
    try:
        fleet.commit({"agents.d/a.yaml": agent_text("a")})
        assert fleet.apply().code == 0
        lost, router = fleet.id, fleet.run / "router.pid"
        os.kill(int(router.read_text().split()[0]), 15)
        fleet.lose_data()
        answer = fleet.apply()
        assert answer.code == 1
        assert f"1 container of fleet {lost} were made from it: its data was lost" in answer.err
        assert not fleet.data.exists()
        assert fleet.call("recycle", *fleet.places).code == 3
        assert fleet.call("recycle", *fleet.places, "--confirm", lost).code == 0
        assert fleet.apply().code == 0
        assert fleet.check() == []
    finally:
        fleet.destroy()


def test_a_lost_data_directory_of_plain_processes_is_noticed_and_its_fleet_can_be_recycled(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply().code == 0
    lost, kept = fleet.id, fleet.folder / "kept"
    fleet.data.rename(kept)
    for command in (("apply",), ("run", "--once")):
        answer = fleet.call(*command, *fleet.places, *fleet.permission)
        assert answer.code == 1
        assert f"1 instance and 1 router of fleet {lost} were made from it: its data was lost" in answer.err
        assert not fleet.data.exists()
    kept.rename(fleet.data)
    assert fleet.apply().code == 0
    assert [p.name for p in (fleet.folder / "run").iterdir()] == [lost]
    fleet.lose_data()
    recycled = fleet.call("recycle", *fleet.places, "--confirm", lost)
    assert recycled.code == 0
    assert recycled.err.endswith(" has no log that is this fleet's, so that no row says who asked\n")
    assert list((fleet.folder / "run").iterdir()) == []
    assert fleet.apply().code == 0
    assert fleet.check() == []


def test_a_router_alone_of_a_lost_data_directory_is_noticed(fleet: Fleet) -> None:
    fleet.commit({})
    assert fleet.apply().code == 0
    lost = fleet.id
    fleet.lose_data()
    answer = fleet.apply()
    assert answer.code == 1
    assert f"1 router of fleet {lost} were made from it: its data was lost" in answer.err
    assert fleet.call("recycle", *fleet.places, "--confirm", lost).code == 0
    assert fleet.apply().code == 0


def test_a_fleet_that_was_taken_down_is_not_missed(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply().code == 0
    assert fleet.call("down", "--now", *fleet.places).code == 0
    fleet.lose_data()
    assert fleet.apply().code == 0


def test_a_lost_key_is_not_replaced_by_a_new_one(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply().code == 0
    lost, file = fleet.id, fleet.data / "fleet.json"
    key = file.read_bytes()
    file.unlink()
    answer = fleet.apply()
    assert answer.code == 1
    assert f"has the record of fleet {lost}, but its key (fleet.json) was lost; restore it from a backup" in answer.err
    assert not file.exists()
    assert [p.name for p in (fleet.folder / "run").iterdir()] == [lost]
    file.write_bytes(key)
    assert fleet.apply().code == 0
    assert fleet.check() == []


def test_a_record_that_is_damaged_is_named_with_what_to_do_in_each_command(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply().code == 0
    for name in ("state.db-wal", "state.db-shm"):
        (fleet.data / name).unlink(missing_ok=True)
    (fleet.data / "state.db").write_bytes(b"garbage " * 1000)
    for command in (("status",), ("apply", *fleet.permission)):
        answer = fleet.call(*command, *fleet.places)
        assert answer.code == 1
        assert "state.db failed: file is not a database; restore it from a backup" in answer.err
        assert "SELECT" not in answer.err
        assert "sqlalche.me" not in answer.err


def tamper(fleet: Fleet, sql: str) -> None:
    with sqlite3.connect(fleet.data / "state.db") as connection:
        connection.execute(sql)
    connection.close()


def test_a_deleted_instance_row_makes_an_orphan_that_is_recycled_and_made_anew(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a"), "agents.d/b.yaml": agent_text("b")})
    assert fleet.apply().code == 0
    other = next(i for i in fleet.state()["instances"] if i["name"] == "b-0")
    tamper(fleet, "DELETE FROM instance WHERE name = 'a-0'")
    answer = fleet.apply()
    assert answer.code == 0, answer
    assert re.search(r"- recycle +agent/a-0 +its container has no record: an orphan", answer.out)
    assert other in fleet.state()["instances"]
    assert fleet.check() == []


def test_deleted_rows_of_a_whole_fleet_are_refused_by_the_guard(fleet: Fleet) -> None:
    fleet.commit({f"agents.d/a{n}.yaml": agent_text(f"a{n}") for n in range(5)})
    assert fleet.apply().code == 0
    tamper(fleet, "DELETE FROM instance")
    answer = fleet.apply()
    assert answer.code == 3, answer
    said = "PlanRefused: the record of all 5 agents that run was lost; restore state.db from a backup"
    assert said in answer.out
    assert fleet.check() == []


def test_a_changed_spec_digest_is_repaired_without_removing_anything(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply().code == 0
    tamper(fleet, "UPDATE instance SET spec_digest = '1:0'")
    before = fleet.state()["instances"][0]["container_id"]
    answer = fleet.apply()
    assert answer.code == 0, answer
    assert re.search(r"~ update +agent/a-0 ", answer.out)
    after = fleet.state()["instances"][0]
    assert (after["container_id"], after["spec_digest"] != "1:0") == (before, True)
    assert fleet.check() == []


def test_a_task_marked_succeeded_by_hand_goes_on_and_its_real_result_is_taken(fleet: Fleet) -> None:
    gate = fleet.folder / "gate"
    waiting = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\nprint(42)"
    slow = agent_text("a", argv=json.dumps(["python3", "-c", waiting]))
    fleet.commit({"agents.d/a.yaml": slow, "tasks.d/t.yaml": task_text("t", "a")})
    mark = "UPDATE task SET state = 'succeeded', finished_at = '2026-01-01T00:00:00+00:00'"
    with running(fleet):
        eventually(lambda: shown(fleet, "t")["state"] == "running")
        before = containers(fleet)
        tamper(fleet, mark)
        eventually(lambda: shown(fleet, "t")["state"] == "running")
    tamper(fleet, mark)
    answer = fleet.call("plan", *fleet.places, "-o", "json")
    (change,) = [c for c in json.loads(answer.out)["changes"] if c["kind"] == "task"]
    assert (answer.code, change["action"], change["cause"]) == (2, "update", "drift")
    assert change["reason"] == "recorded as succeeded, but nothing ended it; by its attempts it is running"
    gate.touch()
    with running(fleet):
        eventually(lambda: shown(fleet, "t").get("result") == 42)
    assert shown(fleet, "t")["attempts"] == 1
    drift = [row for row in audit(fleet) if row["kind"] == "task" and row["cause"] == "drift"]
    assert {(row["name"], row["action"], row["reason"]) for row in drift} == {("t", "update", change["reason"])}
    assert containers(fleet) == before
    assert fleet.check() == []


def shown(fleet: Fleet, task: str) -> dict[str, Any]:
    """What `task show` says; nothing while there is no such task."""
    answer = fleet.call("task", "show", task, *fleet.places, "-o", "json")
    return dict(json.loads(answer.out)) if answer.code == 0 else {"state": ""}
