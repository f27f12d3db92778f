"""A small fleet for whole-program tests: a repository in a temporary folder, and the command line run on it."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.flows.forks import ROOT, shared
from tests.outside.checker import check_docker, check_processes, has_engine

IMAGE = "agents/base:1"
HUB = """\
apiVersion: reconciler/v1
kind: Hub
metadata: {name: small}
spec:
  loop: {resync: 2s, concurrency: 4}
  router: {lease: 15s}
  orchestrator: {maxParallelTasks: 5, retry: {maxAttempts: 3, baseDelay: 100ms}}
"""


def agent_text(name: str, *, memory: str = "128MiB", argv: str = '[python3, "-c", "print(1)"]', more: str = "") -> str:
    """An agent manifest; `more` is YAML below `spec`, indented by two spaces."""
    return f"""\
apiVersion: reconciler/v1
kind: Agent
metadata: {{name: {name}}}
spec:
  role: worker
  image: {IMAGE}
  capabilities: [work.do]
  executor: {{type: command, argv: {argv}, timeouts: {{firstOutput: 5m}}}}
  resources: {{cpus: 0.5, memory: {memory}, pids: 50}}
  lifecycle: {{grace: 2s}}
  health: {{heartbeat: 500ms, handshake: 1m}}
{more}"""


def task_text(name: str, agent: str, *, value: int = 0, more: str = "") -> str:
    """A task manifest; `more` is YAML below `spec`."""
    return f"""\
apiVersion: reconciler/v1
kind: Task
metadata: {{name: {name}}}
spec:
  agent: {agent}
  input: {{value: {value}}}
  timeout: 5m
{more}"""


@dataclass
class Fleet:
    """One repository with its data directory and the runtime that its agents are on."""

    folder: Path
    runtime: str
    files: dict[str, str] = field(default_factory=dict)

    @property
    def repository(self) -> Path:
        return self.folder / "repo"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def cwd(self) -> Path:
        """Where commands are given."""
        return ROOT

    @property
    def id(self) -> str:
        return str(json.loads((self.data / "fleet.json").read_text())["fleet"])

    @property
    def run(self) -> Path:
        return self.folder / "run" / self.id

    def commit(self, files: Mapping[str, str], message: str = "change") -> str:
        """Make the work tree exactly `files` (and hub.yaml) and commit; returns the commit id. The inbox stays."""
        self.files = {"hub.yaml": HUB, **files}
        for path in self.repository.rglob("*.*"):
            if path.relative_to(self.repository).parts[0] not in (".git", "inbox") and path.is_file():
                path.unlink()
        for name, text in self.files.items():
            target = self.repository / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=Tester", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(self.repository), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None, program: Sequence[str] = ("-m", "reconciler")
    ) -> subprocess.Popen[str]:
        """A reconciler command on this fleet, started."""
        return subprocess.Popen(
            [sys.executable, "-P", *program, *arguments],
            cwd=self.cwd,
            env={**self.environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 300) -> "Answer":
        """A reconciler command on this fleet, to its end; by a program of its own where `env` adds to its environment."""
        if env:
            return self._call_anew(*arguments, env=env, timeout_s=timeout_s)
        out, err = self.folder / "call.out", self.folder / "call.err"
        for said in (out, err):
            said.write_text("")
        forks = shared()
        pid = forks.begin(arguments, self.environment(), out, err)
        is_late = not forks.has_ended(timeout_s)
        if is_late:
            os.kill(pid, signal.SIGABRT)
        code = forks.end(timeout_s)
        answer = Answer(code=code, out=out.read_text(errors="replace"), err=err.read_text(errors="replace"))
        if is_late:
            pytest.fail(f"{arguments} did not end in {timeout_s} s: {answer}")
        return answer

    def _call_anew(self, *arguments: str, env: Mapping[str, str], timeout_s: float) -> "Answer":
        process = self.start(*arguments, env=env)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            out, err = process.communicate()
            pytest.fail(f"{arguments} did not end in {timeout_s} s:\n{out}\n{err}")
        return Answer(code=process.returncode, out=out, err=err)

    def apply(self, *arguments: str, env: Mapping[str, str] | None = None) -> "Answer":
        return self.call("apply", *self.places, *self.permission, "--timeout", "180", *arguments, env=env)

    @property
    def places(self) -> tuple[str, ...]:
        return ("--source", str(self.repository), "--data", str(self.data))

    @property
    def permission(self) -> tuple[str, ...]:
        return ("--allow-process-runtime",)

    def check(self) -> list[str]:
        """What the outside checker finds wrong."""
        if self.runtime == "docker":
            return check_docker(self.repository, self.id)
        return check_processes(self.repository, self.run)

    def state(self) -> dict[str, Any]:
        """All of `status -o json`."""
        answer = self.call("status", *self.places, "-o", "json")
        assert answer.code == 0, answer
        value: dict[str, Any] = json.loads(answer.out)
        return value

    def evidence(self) -> str:
        """What a failed test needs to be understood: tasks, attempts and the newest audit rows, one JSON line each."""
        out: list[str] = []
        with sqlite3.connect(f"file:{self.data}/state.db?mode=ro", uri=True) as connection:
            connection.row_factory = sqlite3.Row
            for table, order in (("task", "rowid"), ("attempt", "rowid"), ("instance", "rowid"), ("audit", "seq")):
                rows = connection.execute(f"SELECT * FROM {table} ORDER BY {order} DESC LIMIT 25").fetchall()
                out += [f"{table}: {json.dumps(dict(row), default=str)[:600]}" for row in reversed(rows)]
        connection.close()
        for log in sorted(self.run.glob("**/*.log")):
            out += [f"--- {log}", *log.read_text(errors="replace").splitlines()[-30:]]
        return "\n".join(out)

    def lose_data(self) -> None:
        """All at once, whatever the router does there meanwhile."""
        lost = self.folder / "lost"
        self.data.rename(lost)
        shutil.rmtree(lost, ignore_errors=True)

    def destroy(self) -> None:
        """End everything of this fleet and remove its files."""
        if (self.data / "fleet.json").exists():
            with suppress(pytest.fail.Exception):
                self.call("down", "--now", *self.places, timeout_s=120)
        for pid in _mentioning(str(self.folder)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """What every command of this fleet is started with."""
        environment = {**os.environ, "RECONCILER_RUN": str(self.folder / "run"), "PYTHONPATH": str(ROOT)}
        if self.runtime == "process":
            environment["DOCKER_HOST"] = f"unix://{self.folder}/no-engine.sock"
        return environment


def _mentioning(text: str) -> list[int]:
    """Processes on whose command line a fleet's folder stands: what `down` should have ended."""
    out: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    out.append(int(entry.name))
    return out


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


def files_below(*roots: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file there, with what is in it; what goes away meanwhile is left out."""
    for root in roots:
        for folder, _, names in os.walk(root):
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):
                    if path.is_file():
                        yield path, path.read_bytes()


def make_fleet(runtime: str) -> Fleet:
    """An empty repository on branch main. Its folder has a short path, for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    folder.chmod(0o711)
    fleet = Fleet(folder=folder, runtime=runtime)
    fleet.repository.mkdir()
    subprocess.run(["git", "init", "-q", "-b", "main", str(fleet.repository)], check=True)
    return fleet


def runtimes() -> list[Any]:
    """Both runtimes; docker is skipped where no engine answers, unless one is required."""
    return ["process", pytest.param("docker", marks=pytest.mark.engine)]


def need_engine(runtime: str) -> None:
    """Skip, or fail where an engine is required."""
    if runtime != "docker" or has_engine():
        return
    if os.environ.get("RECONCILER_REQUIRE_ENGINE"):
        pytest.fail("no Docker Engine answers, but RECONCILER_REQUIRE_ENGINE is set")
    pytest.skip("no Docker Engine answers")


def eventually(condition: Callable[[], bool], within_s: float = 180.0, step_s: float = 0.05) -> None:
    """Poll until `condition` holds; fail the test when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s")
        time.sleep(step_s)
