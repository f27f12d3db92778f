"""The lifecycle of agents on both runtimes: crashes until isolation, a roll-out that is taken back, sleep and waking."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from typing import Any

from tests.flows.fleet import Fleet, agent_text, eventually, task_text
from tests.flows.test_hub import running
from tests.outside.checker import engine


def rows(fleet: Fleet, query: str) -> list[tuple[Any, ...]]:
    if not (fleet.data / "state.db").exists():
        return []
    with closing(sqlite3.connect(f"file:{fleet.data}/state.db?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def phases(fleet: Fleet) -> dict[str, str]:
    return dict(rows(fleet, "SELECT name, phase FROM instance"))


def container(fleet: Fleet, name: str) -> str:
    return str(rows(fleet, f"SELECT container_id FROM instance WHERE name = '{name}'")[0][0])


def crash(fleet: Fleet, name: str) -> None:
    """SIGKILL to the daemon, from outside."""
    if fleet.runtime == "docker":
        engine("POST", f"/containers/{container(fleet, name)}/kill")
        return
    state = json.loads((fleet.run / "process" / name / "state.json").read_text())
    os.kill(state["pid"], signal.SIGKILL)


def test_what_crashes_too_often_is_isolated_with_its_evidence_and_released_by_the_operator(fleet: Fleet) -> None:
    once = agent_text("a").replace("lifecycle: {grace: 2s}", "lifecycle: {grace: 2s, maxCrashes: 1}")
    fleet.commit({"agents.d/a.yaml": once})
    with running(fleet):
        eventually(lambda: phases(fleet).get("a-0") == "executing")
        crash(fleet, "a-0")
        ready = """SELECT count(*) FROM audit WHERE action = 'phase' AND after LIKE '{"phase": "executing"%'"""
        eventually(lambda: rows(fleet, ready) == [(2,)])
        crash(fleet, "a-0")
        eventually(lambda: phases(fleet).get("a-0") == "quarantined")
        (evidence,) = (fleet.data / "evidence" / "a-0").iterdir()
        assert json.loads((evidence / "reason.json").read_text())["crashes"] == 1
        assert json.loads((evidence / "container.json").read_text())["state"] == "exited"
        messages = json.loads((evidence / "messages.json").read_text())
        assert "agent.hello" in {m["type"] for m in messages}
        assert rows(fleet, "SELECT token_sha256 FROM instance") == [("",)]
        eventually(lambda: not (fleet.run / "secrets" / "a-0").exists())
        said = fleet.call("explain", "agent/a", *fleet.places)
        assert said.code == 0, said
        assert said.out.startswith("a-0 is in quarantine: in quarantine: it exited with 137")
        kept = container(fleet, "a-0")
        released = fleet.call("agent", "release", "a", *fleet.places)
        assert released.code == 0, released
        eventually(lambda: phases(fleet).get("a-0") == "executing")
        assert container(fleet, "a-0") != kept
        refused = fleet.call("agent", "release", "a", *fleet.places)
        assert (refused.code, refused.err) == (64, "error: a-0: there is nothing to release it from\n")
    steps = [json.loads(after)["phase"] for (after,) in rows(fleet, "SELECT after FROM audit WHERE action = 'phase'")]
    assert steps == [
        "activating",
        "handshaking",
        "executing",
        "handshaking",
        "executing",
        "quarantined",
        "activating",
        "handshaking",
        "executing",
    ]
    assert fleet.check() == []


def test_a_roll_out_whose_first_instance_crashes_is_taken_back_until_the_next_commit(fleet: Fleet) -> None:
    files = {"agents.d/a.yaml": agent_text("a", more="  replicas: 2\n")}
    fleet.commit(files)
    with running(fleet):
        eventually(lambda: sorted(phases(fleet).values()) == ["executing"] * 2)
        fleet.commit({"agents.d/a.yaml": agent_text("a", more="  replicas: 2\n  version: '2'\n")})
        eventually(lambda: phases(fleet).get("a-0") in ("handshaking", "executing") and _version(fleet, "a-0") == "2")
        crash(fleet, "a-0")
        eventually(lambda: bool(rows(fleet, "SELECT 1 FROM condition WHERE type = 'RolledBack' AND status = 1")))
        eventually(lambda: runs_version(fleet, "1"))
        assert fleet.call("explain", "agent/a", *fleet.places).out.count("its roll-out was taken back") == 2
        fleet.commit({"agents.d/a.yaml": agent_text("a", more="  replicas: 2\n  version: '3'\n")})
        eventually(lambda: runs_version(fleet, "3"))
    assert fleet.check() == []


def runs_version(fleet: Fleet, version: str) -> bool:
    """Whether both instances of `a` work, and were made from this version."""
    are_made = [_version(fleet, name) for name in ("a-0", "a-1")] == [version] * 2
    return are_made and sorted(phases(fleet).values()) == ["executing"] * 2


def _version(fleet: Fleet, name: str) -> str:
    found = rows(fleet, f"SELECT manifest FROM instance WHERE name = '{name}'")
    return str(json.loads(found[0][0])["spec"].get("version", "1")) if found else ""


def test_a_sleeper_is_woken_by_a_task_and_by_a_message_and_a_per_task_agent_lives_for_one_task(fleet: Fleet) -> None:
    sleepy = agent_text("sleepy", more="  idle: {after: 2s}\n  messaging: {subscribes: [note.made]}\n")
    once = agent_text("once", more="  mode: per-task\n  replicas: 2\n")
    files = {"agents.d/a.yaml": sleepy, "agents.d/b.yaml": once}
    fleet.commit(files)
    with running(fleet):
        eventually(lambda: phases(fleet) == {"sleepy-0": "registered"})
        assert rows(fleet, "SELECT container_id, token_sha256 FROM instance") == [("", "")]
        tasks = {f"tasks.d/{n}{i}.yaml": task_text(f"{n}{i}", n, value=i) for n in ("sleepy", "once") for i in range(2)}
        fleet.commit({**files, **tasks})
        done = "SELECT count(*) FROM task WHERE state = 'succeeded'"
        eventually(lambda: rows(fleet, done) == [(4,)])
        eventually(lambda: phases(fleet) == {"sleepy-0": "registered"})
        used = rows(fleet, "SELECT DISTINCT container_id FROM attempt WHERE instance LIKE 'once-%'")
        assert len(used) == 2
        awake = "SELECT count(*) FROM audit WHERE name = 'sleepy-0' AND action = 'phase' AND after LIKE '%executing%'"
        before = rows(fleet, awake)
        sent = fleet.call("message", "send", "note.made", "--topic", "note.made", *fleet.places)
        assert sent.code == 0, sent
        eventually(lambda: rows(fleet, awake) > before)
