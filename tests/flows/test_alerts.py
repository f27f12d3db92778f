"""Alerts of a real hub: a webhook and a program are told of a quarantine, once, also over a kill of the hub."""

import http.client
import json
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.alerts.receiver import Receiver, receiving
from tests.flows.fleet import HUB, Fleet, agent_text, eventually, files_below, task_text

SECRET = "whsec-0123456789"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@contextmanager
def running(fleet: Fleet, operator: Path) -> Iterator[subprocess.Popen[str]]:
    hub = fleet.start("run", *fleet.places, *fleet.permission, "--operator", str(operator))
    try:
        yield hub
    finally:
        if hub.poll() is None:
            hub.kill()
        hub.communicate(timeout=180)


def configure(fleet: Fleet, receiver: Receiver) -> Path:
    """An operator's file with a webhook that signs, and a program."""
    key, program, operator = (fleet.folder / name for name in ("key", "notify", "operator.yaml"))
    key.write_text(SECRET)
    program.write_text(f"#!/bin/sh\n{{ cat; echo; }} >> {fleet.folder}/notified\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    webhook = {"webhook": {"url": f"{receiver.url}/{SECRET}", "keyFile": str(key)}}
    sinks = {"pager": webhook, "program": {"command": {"argv": [str(program)]}}}
    spec = {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"sinks": sinks}}
    operator.write_text(json.dumps(spec))
    return operator


def notified(fleet: Fleet) -> list[tuple[str, str]]:
    path = fleet.folder / "notified"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(n["status"], n["type"]) for n in map(json.loads, lines)]


def of_quarantine(told: list[tuple[str, str]]) -> list[str]:
    return [status for status, type_ in told if type_ == "Quarantined"]


def is_delivered(fleet: Fleet) -> bool:
    """Whether the record says so too: who kills the hub before is told again, of the same id."""
    with closing(sqlite3.connect(f"file:{fleet.data}/state.db?mode=ro", uri=True)) as connection:
        return bool(connection.execute("SELECT count(*) FROM notice").fetchone() == (0,))


def is_ready(fleet: Fleet) -> bool:
    if not (fleet.data / "state.db").exists():
        return False
    state = fleet.state()
    tasks = [t["state"] for t in state["tasks"]]
    return tasks == ["succeeded"] and [i["phase"] for i in state["instances"]] == ["executing"]


def get(fleet: Fleet, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("hub")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(60)
        try:
            link.connect(str(fleet.run / "api.sock"))
        except OSError:
            return 0, ""
        connection.sock = link
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_a_quarantine_is_told_once_to_each_sink_and_its_end_too(processes: Fleet, receiver: Receiver) -> None:
    fleet, operator = processes, configure(processes, receiver)
    fleet.commit({"agents.d/a.yaml": agent_text("a"), "tasks.d/t.yaml": task_text("t", "a")})
    (fleet.repository / "hub.yaml").write_text(f"{HUB}  alerts: {{sinks: [log, pager, program]}}\n")
    fleet.git("commit", "-qam", "sinks")
    with running(fleet, operator) as hub:
        eventually(lambda: is_ready(fleet))
        assert fleet.call("agent", "quarantine", "a", *fleet.places).code == 0
        eventually(lambda: of_quarantine(receiver.types) == of_quarantine(notified(fleet)) == ["raised"])
        eventually(lambda: is_delivered(fleet))
        hub.kill()
    with running(fleet, operator) as hub:
        eventually(lambda: get(fleet, "/readyz")[0] == 200)
        assert fleet.call("agent", "release", "a", *fleet.places).code == 0
        both = ["raised", "cleared"]
        eventually(lambda: of_quarantine(receiver.types) == of_quarantine(notified(fleet)) == both)
        ids = [p.notice["id"] for p in receiver.posts]
        assert len(set(ids)) == len(ids)
        assert all(p.headers["webhook-signature"].startswith("v1,") for p in receiver.posts)
        hub.kill()
        out, err = hub.communicate()
        assert SECRET not in out + err
    for path, content in files_below(fleet.data, fleet.run):
        assert SECRET.encode() not in content, path


def test_a_running_hub_shows_what_its_agents_use_and_can_be_measured(processes: Fleet) -> None:
    fleet = processes
    fleet.commit({"agents.d/a.yaml": agent_text("a"), "tasks.d/t.yaml": task_text("t", "a")})
    operator = fleet.folder / "operator.yaml"
    operator.write_text("apiVersion: reconciler/v1\nkind: Operator\nspec: {}\n")
    with running(fleet, operator):
        eventually(lambda: is_ready(fleet))
        eventually(lambda: 'reconciler_memory_bytes{instance="a-0",agent="a"}' in get(fleet, "/metrics")[1])
        assert get(fleet, "/healthz") == (200, '{"status":"ok"}')
        assert 'reconciler_mode{mode="normal"} 1' in get(fleet, "/metrics")[1]
        used = fleet.state()["usage"]["instances"]["a-0"]
        assert used["memory_bytes"] > 2**20
        assert used["cpu_s"] > 0
        shown = fleet.call("get", "agents", *fleet.places).out
        assert "MEMORY" in shown
        assert "MiB" in shown
