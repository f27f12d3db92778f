"""What agentd and router promise each other, by a socket and by TLS: real processes on both sides."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reconciler.identity.authority import open_authority
from reconciler.router.client import RouterLink
from reconciler.runtime.pid import read_process
from tests.router.fleet import FLEET, Fleet, basic_config, free_port, instance_entry, tls_entry, until

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("AGENTD_PYTHON", sys.executable)
PROGRAM = """
import json, os, sys, urllib.request
def call(path, body=None):
    request = urllib.request.Request(os.environ["HUB_URL"] + path, body)
    request.add_header("Authorization", "Bearer " + open(os.environ["HUB_TOKEN_FILE"]).read())
    return json.load(urllib.request.urlopen(request, timeout=120))
note = {"id": "n-1", "type": "review.note", "pattern": "event", "to": "reviewer", "payload": "x" * 200_000}
sent = call("/api/hub/messages", json.dumps(note).encode())
json.dump([call("/api/hub/self")["instance"], sent["status"]], sys.stdout)
"""


@dataclass
class Plane:
    """A router, and how its instances reach it."""

    fleet: Fleet
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def token_file(self) -> Path:
        return self.folder / "agent-token"

    @property
    def way(self) -> dict[str, str]:
        """What agentd is told."""
        if self.fleet.tls is None:
            return {"HUB_SOCKET": str(self.fleet.run / "hub" / "writer-0" / "hub.sock")}
        return {"HUB_ADDRESS": f"127.0.0.1:{self.fleet.tls.port}", "HUB_CA_FILE": str(self.fleet.tls.ca_file)}

    def admit(self) -> None:
        """Register the instance with a new token."""
        token = secrets.token_urlsafe(32)
        fresh = self.token_file.with_suffix(".new")
        fresh.write_text(token)
        fresh.rename(self.token_file)
        entry = instance_entry("writer", [(token, time.time() + 600)])
        self.fleet.link.put_instance("writer-0", {**entry, "transport": "tls"} if self.fleet.tls else entry)

    def start(self, **environment: str) -> Path:
        """An agentd; its log."""
        executor = {"type": "command", "argv": [PYTHON, "-c", PROGRAM]}
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        config = {"version": "1", "executor": executor, "heartbeat_s": 0.2, "scratch": str(scratch), "port": 0}
        log = self.folder / f"agentd-{len(self.started)}.log"
        own = {"HUB_AGENT": "writer", "HUB_INSTANCE": "writer-0", "HUB_TOKEN_FILE": str(self.token_file)}
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [PYTHON, "-m", "reconciler.agentd"],
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    "HUB_CONFIG": json.dumps({**config, "llm_port": 0}),
                    **own,
                    **self.way,
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stderr=stream,
            )
        self.started.append(process)
        return log

    def has_said_hello(self) -> bool:
        return self.fleet.report().instances["writer-0"].hello is not None

    def assign(self, run: str) -> None:
        order = {"task": "t", "run": run, "generation": 1, "lease_s": 30, "timeout_s": 20}
        payload = {**order, "prompt": "", "input": {}, "parents": {}, "workspace": "", "sensitivity": "internal"}
        payload["output"] = {"maxSize": 65536, "artefacts": []}
        message = {"id": f"{run}-1", "type": "task.assigned", "pattern": "request", "payload": payload}
        self.fleet.link.send({"instance": "writer-0", "message": message})

    def reports(self, type_: str) -> list[Any]:
        return [e.payload for e in self.fleet.link.read_inbox(0, 1000) if e.type == type_]


@pytest.fixture(params=["unix", "tls"])
def make_plane(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Plane]]:
    """A plane with its router started, also again."""
    run, port = Path(tempfile.mkdtemp(prefix="rr", dir="/tmp")), free_port()
    link = RouterLink(FLEET, run, tmp_path)
    started: list[subprocess.Popen[bytes]] = []

    def make() -> Plane:
        link.start()
        fleet = Fleet(run=run, data=tmp_path, link=link, config=basic_config())
        if request.param == "tls":
            fleet.tls_port, fleet.config["tls"] = port, tls_entry(port)
        fleet.configure()
        return Plane(fleet=fleet, folder=tmp_path, started=started)

    yield make
    for process in started:
        process.kill()
        process.wait()
    link.stop()
    shutil.rmtree(run, ignore_errors=True)


@pytest.fixture
def plane(make_plane: Callable[[], Plane]) -> Plane:
    made = make_plane()
    made.admit()
    return made


def test_hello_task_forwarder_and_result_pass(plane: Plane) -> None:
    log = plane.start()
    until(plane.has_said_hello)
    reviewer = plane.fleet.register("reviewer-0")
    plane.assign("r1")
    until(lambda: bool(plane.reports("task.completed")), timeout_s=60)
    (done,) = plane.reports("task.completed")
    assert (done["exit_code"], done["result"]) == (0, ["writer-0", "accepted"])
    assert [len(m["payload"]) for m in reviewer.receive()] == [200_000]
    plane.started[0].send_signal(signal.SIGTERM)
    assert plane.started[0].wait(10) == 0
    assert "Traceback" not in log.read_text()
    assert "Traceback" not in (plane.fleet.data / "log" / "router.log").read_text()


def test_a_revoked_token_gets_nothing_and_the_next_one_works_at_once(plane: Plane) -> None:
    log = plane.start()
    until(plane.has_said_hello)
    plane.fleet.link.remove_instance("writer-0")
    rows = len(plane.fleet.rows("verdict='allow'"))
    until(lambda: "401 unauthenticated" in log.read_text() or "does not answer" in log.read_text())
    assert len(plane.fleet.rows("verdict='allow'")) == rows
    plane.admit()
    until(plane.has_said_hello)


def test_a_token_that_was_never_valid_is_refused_until_the_file_holds_another(plane: Plane) -> None:
    plane.token_file.write_text("wrong")
    log = plane.start()
    until(lambda: "401 unauthenticated" in log.read_text())
    assert not plane.has_said_hello()
    plane.admit()
    until(plane.has_said_hello)


def test_after_the_router_was_killed_agentd_finds_the_next_one(plane: Plane, make_plane: Callable[[], Plane]) -> None:
    plane.start()
    until(plane.has_said_hello)
    pid = plane.fleet.report().pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: read_process(pid) is None)
    again = make_plane()
    again.admit()
    until(again.has_said_hello)
    again.fleet.register("reviewer-0")
    again.assign("r1")
    until(lambda: bool(again.reports("task.completed")), timeout_s=60)


@pytest.mark.parametrize("make_plane", ["tls"], indirect=True)
@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_agentd_says_nothing_to_a_router_that_it_cannot_trust(plane: Plane, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "other").mkdir()
    open_authority(tmp_path / "other", "other", datetime.now(UTC))
    port = plane.way["HUB_ADDRESS"].rpartition(":")[2]
    told = {
        "authority": {"HUB_CA_FILE": str(tmp_path / "other" / "tls" / "ca.crt")},
        "name": {"HUB_ADDRESS": f"localhost:{port}"},
    }
    log = plane.start(**told[wrong])
    until(lambda: "the hub's certificate is not to be trusted" in log.read_text())
    assert not plane.has_said_hello()
    assert plane.fleet.rows("code='unauthenticated'") == []
    plane.start()
    until(plane.has_said_hello)


@pytest.mark.parametrize("make_plane", ["tls"], indirect=True)
@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"HUB_CA_FILE": "/does/not/exist"}, "HUB_CA_FILE: no certificate in /does/not/exist: No such file"),
        ({"HUB_CA_FILE": os.devnull}, "HUB_CA_FILE: no certificate in /dev/null"),
        ({"HUB_ADDRESS": "hub"}, "HUB_ADDRESS: 'hub' is not host:port"),
        ({"HUB_SOCKET": "/run/hub/hub.sock"}, "HUB_ADDRESS and HUB_SOCKET are both set"),
    ],
)
def test_a_way_that_cannot_be_is_said_at_the_start(plane: Plane, environment: dict[str, str], named: str) -> None:
    log = plane.start(**environment)
    assert plane.started[0].wait(10) == 64
    (line,) = [json.loads(text) for text in log.read_text().splitlines()]
    assert line["msg"] == "the configuration is not usable"
    assert named in line["error"]
