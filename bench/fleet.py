"""A real fleet on the process runtime: the hub as a program of its own, its router, and agents that run one command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reconciler.api.client import HubAwayError, call

OPERATOR = """\
apiVersion: reconciler/v1
kind: Operator
spec: {{maxima: {{maxParallelTasks: {most}}}}}
"""
HUB = """\
apiVersion: reconciler/v1
kind: Hub
metadata: {{name: bench}}
spec:
  loop: {{resync: 30s, concurrency: 4}}
  router: {{rate: {{messages: 100000/min, bytes: 1GiB/min}}}}
  orchestrator: {{maxParallelTasks: {most}}}
"""
AGENT = """\
apiVersion: reconciler/v1
kind: Agent
metadata: {{name: a{number}}}
spec:
  role: worker
  image: agents/base:1
  capabilities: [work.do]
  executor: {{type: command, argv: {argv}, timeouts: {{firstOutput: 10m, progress: 10m}}}}
  resources: {{cpus: 1.0, memory: 1GiB, pids: 2000}}
  tasks: {{maxParallel: {each}}}
  lifecycle: {{grace: 2s}}
"""
START_S = 120.0


class Fleet:
    """`agents` agents of one instance each, which run `argv` for each task, `each` at once."""

    def __init__(self, folder: Path, *, agents: int, each: int, argv: list[str]) -> None:
        self.folder, self.agents = folder, agents
        self._operator = folder / "operator.yaml"
        self._repository = folder / "repository"
        self._hub: subprocess.Popen[bytes] | None = None
        self._operator.write_text(OPERATOR.format(most=agents * each))
        (self._repository / "agents.d").mkdir(parents=True)
        (self._repository / "hub.yaml").write_text(HUB.format(most=agents * each))
        for number in range(agents):
            text = AGENT.format(number=number, each=each, argv=json.dumps(argv))
            (self._repository / "agents.d" / f"a{number}.yaml").write_text(text)
        git = ["git", "-C", str(self._repository), "-c", "user.name=Bench", "-c", "user.email=bench@example.org"]
        subprocess.run(["git", "init", "-q", "-b", "main", str(self._repository)], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "bench"], check=True)

    def start(self) -> float:
        """Start the hub; seconds until it is ready."""
        began = time.perf_counter()
        command = [sys.executable, "-P", "-m", "reconciler", "run", *self._places, "--allow-process-runtime"]
        with (self.folder / "hub.log").open("ab") as log:
            self._hub = subprocess.Popen(
                [*command, "--operator", str(self._operator)], env=self._environment, stdout=log, stderr=log
            )
        wait_for(self._is_ready, START_S, "the hub to be ready")
        return time.perf_counter() - began

    def await_agents(self) -> None:
        """Returns when all agents may have tasks."""
        states = "SELECT count(*) FROM instance WHERE phase = 'executing'"
        wait_for(lambda: self.rows(states) == [(self.agents,)], START_S, "the agents to shake hands")

    def kill(self) -> None:
        """End the hub without warning; all others go on."""
        assert self._hub is not None
        self._hub.kill()
        self._hub.wait()

    def call(self, method: str, target: str, body: bytes = b"") -> Any:
        return call(self._socket, method, target, body)

    def submit(self, name: str, agent: str) -> None:
        """Hand in a task of that name."""
        spec = f"{{agent: {agent}, input: {{name: {name}}}, timeout: 10m}}"
        text = f"apiVersion: reconciler/v1\nkind: Task\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        self.call("POST", "/api/v1/tasks", text.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the record says."""
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(f"file:{self.folder}/data/state.db?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    def await_states(self, state: str, count: int, timeout_s: float) -> None:
        """Returns when so many runs are in a state."""
        query = f"SELECT count(*) FROM task WHERE state = '{state}'"
        wait_for(lambda: self.rows(query)[0][0] >= count, timeout_s, f"{count} runs to be {state}")

    def down(self) -> None:
        """End everything of it."""
        command = [sys.executable, "-P", "-m", "reconciler", "down", "--now", *self._places]
        subprocess.run(command, env=self._environment, check=False, capture_output=True, timeout=120)
        if self._hub is not None and self._hub.poll() is None:
            self._hub.send_signal(signal.SIGTERM)
            self._hub.wait(30)

    def _is_ready(self) -> bool:
        assert self._hub is not None
        assert self._hub.poll() is None, (self.folder / "hub.log").read_text()
        try:
            return bool(self.call("GET", "/readyz")["ready"])
        except (HubAwayError, OSError):
            return False

    @property
    def _socket(self) -> Path:
        fleet = json.loads((self.folder / "data" / "fleet.json").read_text())["fleet"]
        return self.folder / "run" / str(fleet) / "api.sock"

    @property
    def _places(self) -> tuple[str, ...]:
        return ("--source", str(self._repository), "--data", str(self.folder / "data"))

    @property
    def _environment(self) -> Mapping[str, str]:
        """Of all commands; modules are compiled by the first of them, as they are where a person installed them."""
        own = {
            "RECONCILER_RUN": str(self.folder / "run"),
            "DOCKER_HOST": f"unix://{self.folder}/no-engine.sock",
            "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"),
        }
        return {**{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}, **own}


@contextmanager
def open_fleet(*, agents: int, each: int, argv: Callable[[Path], list[str]]) -> Iterator[Fleet]:
    """A fleet that runs; `argv` gets a folder that its tasks may write to. Its own folder has a short path."""
    folder = Path(tempfile.mkdtemp(prefix="rb-"))
    folder.chmod(0o711)
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    fleet = Fleet(folder, agents=agents, each=each, argv=argv(shared))
    try:
        fleet.start()
        fleet.await_agents()
        yield fleet
    finally:
        fleet.down()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.005)
