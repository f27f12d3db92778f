"""A hub as people use it: commit, edit, drift, Ctrl-C, inbox, broken commits. On both runtimes, with real git."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.flows.fleet import Fleet, agent_text, eventually, make_fleet, need_engine, task_text
from tests.outside.checker import engine


@contextmanager
def running(fleet: Fleet, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The hub in the background; ended by Ctrl-C, agents go on."""
    hub = fleet.start("run", *fleet.places, *fleet.permission, env=env)
    try:
        yield hub
    finally:
        if hub.poll() is None:
            hub.send_signal(signal.SIGINT)
        hub.communicate(timeout=180)


@contextmanager
def frozen(hub: subprocess.Popen[str]) -> Iterator[None]:
    """The hub stands still meanwhile: it cannot mend half of what somebody does to the fleet."""
    hub.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        hub.send_signal(signal.SIGCONT)


def settled(fleet: Fleet, tasks: int = 0) -> bool:
    """Whether the outside checker is content and so many tasks have succeeded."""
    if not (fleet.data / "state.db").exists() or fleet.check():
        return False
    state = fleet.state()
    ready = all(i["phase"] == "executing" for i in state["instances"])
    return ready and sum(t["state"] == "succeeded" for t in state["tasks"]) >= tasks


def containers(fleet: Fleet) -> dict[str, str]:
    """Container id by instance, by the record (the outside checker proves that they exist)."""
    return {i["name"]: i["container_id"] for i in fleet.state()["instances"]}


def audit(fleet: Fleet, count: int = 400) -> list[dict[str, Any]]:
    answer = fleet.call("audit", "show", *fleet.places, "-n", str(count), "-o", "json")
    assert answer.code == 0, answer
    rows: list[dict[str, Any]] = json.loads(answer.out)
    return rows


def test_a_commit_becomes_a_fleet_and_an_edit_changes_that_agent_only(fleet: Fleet) -> None:
    files = {"agents.d/a.yaml": agent_text("a"), "agents.d/b.yaml": agent_text("b")}
    fleet.commit({**files, "tasks.d/t.yaml": task_text("t", "a")})
    with running(fleet):
        eventually(lambda: settled(fleet, tasks=1))
        before = containers(fleet)
        fleet.commit({**files, "agents.d/b.yaml": agent_text("b", argv='[python3, "-c", "print(2)"]')})
        eventually(lambda: settled(fleet) and containers(fleet)["b-0"] != before["b-0"])
    assert containers(fleet)["a-0"] == before["a-0"]
    assert fleet.apply().out.count("create") == 0


def test_ctrl_c_and_a_new_start_adopt_the_running_fleet(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with running(fleet):
        eventually(lambda: settled(fleet))
        before = containers(fleet)
    assert fleet.check() == []
    with running(fleet):
        eventually(lambda: settled(fleet))
        fleet.commit({"agents.d/a.yaml": agent_text("a"), "tasks.d/t.yaml": task_text("t", "a")})
        eventually(lambda: settled(fleet, tasks=1))
    assert containers(fleet) == before


def test_what_is_removed_by_hand_is_back_and_recorded_as_drift(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with running(fleet) as hub:
        eventually(lambda: settled(fleet))
        before = containers(fleet)["a-0"]
        with frozen(hub):
            remove_by_hand(fleet, before)
        eventually(lambda: settled(fleet) and containers(fleet)["a-0"] != before)
    again = [r for r in audit(fleet) if r["name"] == "a-0" and r["action"] == "create" and r["outcome"] == "applied"]
    assert [r["cause"] for r in again] == ["commit", "drift"]


def remove_by_hand(fleet: Fleet, container: str) -> None:
    """As somebody would who knows nothing of us."""
    if fleet.runtime == "docker":
        engine("DELETE", f"/containers/{container}?force=1")
        return
    folder = fleet.run / "process" / "a-0"
    pid = int((folder / "shim.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.engine
def test_limits_changed_by_hand_are_put_back() -> None:
    need_engine("docker")
    fleet = make_fleet("docker")
    try:
        fleet.commit({"agents.d/a.yaml": agent_text("a", memory="128MiB")})
        with running(fleet):
            eventually(lambda: settled(fleet))
            container = containers(fleet)["a-0"]
            subprocess.run(
                ["docker", "update", "--memory", "256m", "--memory-swap", "256m", container],
                check=True,
                capture_output=True,
            )
            eventually(lambda: repairs_by_hand(fleet) and settled(fleet))
        assert containers(fleet)["a-0"] == container
        assert {row["cause"] for row in repairs_by_hand(fleet)} == {"drift"}
        assert engine("GET", f"/containers/{container}/json")["HostConfig"]["Memory"] == 128 << 20
    finally:
        fleet.destroy()


def repairs_by_hand(fleet: Fleet) -> list[dict[str, Any]]:
    return [row for row in audit(fleet) if row["action"] == "update" and "by hand" in row["reason"]]


def test_a_broken_commit_changes_nothing_and_its_fix_is_applied(processes: Fleet) -> None:
    fleet = processes
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with running(fleet) as hub:
        eventually(lambda: settled(fleet))
        before = containers(fleet)
        good = fleet.files
        fleet.commit({"agents.d/a.yaml": agent_text("a").replace("role:", "rolle:")})
        eventually(lambda: "ConfigInvalid" in {c["type"] for c in fleet.state()["conditions"]})
        condition = next(c for c in fleet.state()["conditions"] if c["type"] == "ConfigInvalid")
        assert "has 2 problems; first: agents.d/a.yaml:4:1: spec.role is missing" in condition["message"]
        answer = fleet.call("validate", str(fleet.repository))
        assert "agents.d/a.yaml:5:3: unknown key 'rolle' in spec; did you mean 'role'?" in answer.err
        assert containers(fleet) == before
        fleet.commit({**good, "agents.d/b.yaml": agent_text("b")})
        eventually(lambda: settled(fleet) and "b-0" in containers(fleet))
        assert hub.poll() is None
    assert "ConfigInvalid" not in {c["type"] for c in fleet.state()["conditions"]}


def drop(inbox: Path, name: str, text: str) -> None:
    """Write beside, then move in, as a careful person does."""
    draft = inbox / f".{name}"
    draft.write_text(text)
    draft.rename(inbox / name)


def test_what_cannot_be_a_task_is_rejected_with_the_place_of_the_fault(processes: Fleet) -> None:
    fleet = processes
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with running(fleet):
        eventually(lambda: settled(fleet))
        inbox = fleet.repository / "inbox"
        drop(inbox, "bad.yaml", task_text("bad", "nobody"))
        error = inbox / "rejected" / "bad.error.txt"
        eventually(error.exists)
    assert "bad.yaml:5:3: agent 'nobody' is not defined; agents are: a" in error.read_text()


def test_once_leaves_nothing_running(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a"), "tasks.d/t.yaml": task_text("t", "a")})
    answer = fleet.call("run", "--once", *fleet.places, *fleet.permission)
    assert answer.code == 0, answer
    assert "1 of 1 tasks succeeded" in answer.out
    left = [f for f in fleet.check() if "does not run" not in f and "has no container" not in f]
    assert left == []
    assert not (fleet.run / "control.sock").exists() or fleet.call("status", *fleet.places).code == 0


def test_a_failed_task_makes_once_exit_2(processes: Fleet) -> None:
    failing = agent_text("a", argv='[python3, "-c", "raise SystemExit(3)"]')
    processes.commit({"agents.d/a.yaml": failing, "tasks.d/t.yaml": task_text("t", "a")})
    answer = processes.call("run", "--once", *processes.places, *processes.permission)
    assert answer.code == 2, answer
    shown = processes.call("task", "show", "t", *processes.places)
    assert "exited with code 3" in shown.out
