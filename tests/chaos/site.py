"""Where a chaos run happens: a repository, a data directory on a small tmpfs, a real hub, and the ground of the tasks.

The ground is a folder that all agents see, containers too: it lies beside the snapshots that are mounted into them. It
has a lock per task, and the journal, a pipe that is read here and kept in `journal.jsonl`.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import work
from tests.chaos.own_engine import OwnEngine
from tests.chaos.scenario import HUB, MAX_TASKS, OPA, POLICIES, PROVIDERS, Scenario, Task
from tests.flows.clock import Clock
from tests.flows.fleet import Fleet, make_fleet
from tests.flows.forks import ROOT

DATA_MIB = 64
RESYNC = {"process": "100ms", "docker": "300ms"}
CALL_S = 2.0


def has_opa_program() -> bool:
    """Whether a hub finds an OPA to run."""
    return shutil.which(os.environ.get("RECONCILER_OPA") or "opa") is not None


def can_mount() -> bool:
    """Whether a tmpfs can be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        return _mount(Path(folder)) and subprocess.run(["umount", folder], check=False).returncode == 0


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DATA_MIB}m,mode=711", "chaos", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Reply:
    """What somebody answered; `body` is JSON."""

    status: int
    body: Any


def call(
    path: Path, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, s: float = CALL_S
) -> Reply:
    """One HTTP call on a unix socket. Raises OSError, also where what came is no answer."""
    connection = http.client.HTTPConnection("hub", timeout=s)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(s)
        connection.sock.connect(str(path))
        connection.request(method, target, body=body or None, headers=dict(headers or {}))
        response = connection.getresponse()
        content = response.read()
        return Reply(response.status, json.loads(content) if content else None)
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"{method} {target}: no answer: {error!r}") from error
    finally:
        connection.close()


class Site:
    """One fleet under fire. `code` is where the hub's code is, which a negative control has changed.

    `own_engine` is the engine of DOCKER_HOST where that may be ended.
    """

    def __init__(
        self, runtime: str, scenario: Scenario, *, code: Path = ROOT, own_engine: OwnEngine | None = None
    ) -> None:
        self.runtime, self.scenario, self._code, self.own_engine = runtime, scenario, code, own_engine
        has_opa, has_egress = (any(f.startswith(k) for f in scenario.faults) for k in ("opa-", "egress-"))
        self._sections = (OPA if has_opa else "") + (PROVIDERS if has_egress else "")
        self.fleet: Fleet = make_fleet(runtime)
        self.engine_link = self.fleet.folder / "engine.sock"
        self.hub: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.git_tasks: dict[str, Task] = {}
        self.fleet.data.mkdir()
        self.is_mounted = _mount(self.fleet.data)
        self.ground = self.fleet.data / "workspaces" / "tree" / "ground"
        self._clock = Clock(self.fleet.folder / "clock")
        self._make_ground()
        self._journal = _Journal(self.ground / "journal", self.fleet.folder / "journal.jsonl")

    @property
    def run(self) -> Path:
        return self.fleet.run

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every line that executions wrote."""
        return [json.loads(line) for line in self._journal.target.read_text().splitlines()]

    @property
    def is_taken(self) -> bool:
        """Whether an execution ever found its task being executed."""
        return self._journal.is_taken

    def start_hub(self) -> None:
        """A hub, as a person would start it; what it says goes into a file."""
        environment = {**self.fleet.environment(), "PYTHONPATH": str(self._code), **self._clock.environment}
        if self.runtime == "docker":
            environment["DOCKER_HOST"] = f"unix://{self.engine_link}"
        with (self.fleet.folder / "hub.log").open("ab") as log:
            self.hub = subprocess.Popen(
                [sys.executable, "-P", *self._clock.program, "run", *self.fleet.places, *self.fleet.permission],
                cwd=self._code,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.starts += 1

    def set_clock(self, offset_s: int) -> None:
        """The hub's wall clock, from now on, and nobody else's."""
        self._clock.set(offset_s)

    def commit(self, message: str) -> None:
        """What the scenario's agents and the tasks of git are now."""
        text = HUB.replace("RESYNC", RESYNC[self.runtime])
        files = {
            "hub.yaml": text + self._sections,
            "bin/work.py": Path(work.__file__).read_text(),
            **POLICIES,
            "agents.d/fleet.yaml": "---\n".join(
                agent.text(self._ground_of_agents) for agent in self.scenario.agents.values()
            ),
        }
        if self.git_tasks:
            files["tasks.d/tasks.yaml"] = "---\n".join(task.text() for task in self.git_tasks.values())
        for name, content in files.items():
            target = self.fleet.repository / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        self.fleet.git("add", *files)
        self.fleet.git("commit", "-q", "--allow-empty", "-m", message)

    def check(self) -> list[str]:
        """What the outside checker finds wrong, where it can look."""
        try:
            return self.fleet.check()
        except (OSError, AssertionError) as error:
            return [f"nobody can say what runs: {error!r}"]

    def instances(self) -> list[str]:
        return [f"{a.name}-{n}" for a in self.scenario.agents.values() for n in range(a.replicas)]

    def close(self) -> None:
        """End everything and remove it."""
        if self.hub is not None:
            with suppress(ProcessLookupError):
                self.hub.send_signal(signal.SIGCONT)
            self.hub.kill()
            self.hub.wait()
        self._journal.close()
        self.fleet.destroy()
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.fleet.data)], check=False)
            shutil.rmtree(self.fleet.folder, ignore_errors=True)

    @property
    def _ground_of_agents(self) -> str:
        return "/workspaces/ground" if self.runtime == "docker" else str(self.ground)

    def _make_ground(self) -> None:
        locks = self.ground / "lock"
        locks.mkdir(parents=True)
        for folder in (self.fleet.data / "workspaces", self.ground.parent, self.ground, locks):
            folder.chmod(0o755)
        for number in range(MAX_TASKS):
            (locks / f"t{number:04}").touch()
        os.mkfifo(self.ground / "journal")
        (self.ground / "journal").chmod(0o622)


class _Journal(threading.Thread):
    """Copies what comes through the pipe into a file, line by line as it was written."""

    def __init__(self, pipe: Path, target: Path) -> None:
        super().__init__(daemon=True)
        self.target = target
        self.is_taken = False
        target.touch()
        self._pipe = os.open(pipe, os.O_RDWR)
        self.start()

    def run(self) -> None:
        with self.target.open("ab", buffering=0) as out, os.fdopen(os.dup(self._pipe), "rb") as lines:
            for line in iter(lines.readline, b"\n"):
                out.write(line)
                self.is_taken |= b'"taken"' in line

    def close(self) -> None:
        os.write(self._pipe, b"\n")
        self.join(5)
        os.close(self._pipe)


def executions(lines: Sequence[Mapping[str, Any]], task: str) -> int:
    """How often a task was begun."""
    return sum(line["event"] == "start" and line["task"] == task for line in lines)
