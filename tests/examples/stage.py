"""A stage for the scripts of the example fleet: repositories, a hub that listens, and a run.

The scripts run as agentd runs them: in a process of their own, with the argv of their manifest.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30


def git(folder: Path, *arguments: str, **env: str) -> str:
    """What git prints, with the settings beside this file and nobody else's."""
    clean = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(Path(__file__).with_name("gitconfig")),
    }
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository with a known history. Commits are a day apart, from Monday 2026-01-05 on."""

    path: Path

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, content in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(
        self,
        files: Mapping[str, str | bytes],
        subject: str = "change",
        *,
        author: str = "Ada",
        day: int = 0,
    ) -> None:
        self.write(files)
        git(self.path, "add", "-A")
        date = f"{1_767_614_400 + day * 86_400} +0000"
        who = {"GIT_AUTHOR_NAME": author, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        git(self.path, "commit", "-q", "--allow-empty", "-m", subject, **who)

    def tag(self, name: str) -> None:
        git(self.path, "tag", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a script ended. `result` is what it printed as JSON; None where it printed nothing."""

    exit_code: int
    result: Any
    errors: str
    output: Path
    cpu_s: float


@dataclass(slots=True, kw_only=True)
class ListeningHub:
    """The hub's agent plane as far as scripts use it: takes messages, answers with a status, and hands out `mailbox`.

    What was handed out stays there until it is acknowledged. `delegate` does what is delegated; without it nobody may.
    """

    url: str
    token_file: Path
    status: int = 202
    delegate: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    is_late: bool = False
    received: list[dict[str, Any]] = field(default_factory=list)
    mailbox: list[dict[str, Any]] = field(default_factory=list)
    acknowledged: int = 0
    handed_out: int = 0

    def fill(self, letters: Sequence[Mapping[str, Any]]) -> None:
        """What the next script finds in its mailbox."""
        self.mailbox, self.acknowledged, self.handed_out = [dict(letter) for letter in letters], 0, 0

    @property
    def env(self) -> dict[str, str]:
        return {"HUB_URL": self.url, "HUB_TOKEN_FILE": str(self.token_file)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Runs scripts of agents: `work("analyst", {"do": "size"}, workspace)`.

    Scratch goes below `folder`; the scripts are those of `tree`.
    """

    folder: Path
    tree: Path = ROOT

    def __call__(
        self,
        agent: str,
        given: object,
        workspace: Path,
        *,
        parents: Mapping[str, object] | None = None,
        task: str = "some-task",
        env: Mapping[str, str] | None = None,
        memory_bytes: int | None = None,
    ) -> Done:
        """Run one to its end, with at most `memory_bytes` of memory of its own."""
        scratch = Path(tempfile.mkdtemp(dir=self.folder))
        (scratch / "task" / "parents").mkdir(parents=True)
        (scratch / "output").mkdir()
        (scratch / "task" / "input.json").write_text(json.dumps(given))
        for name, value in (parents or {}).items():
            (scratch / "task" / "parents" / f"{name}.json").write_text(json.dumps(value))
        places = {
            "PATH": os.environ["PATH"],
            "HUB_TASK": task,
            "HUB_TASK_DIR": str(scratch / "task"),
            "HUB_OUTPUT": str(scratch / "output"),
            "HUB_WORKSPACE": str(workspace),
        }
        limit = "unlimited" if memory_bytes is None else str(memory_bytes // 1024)
        argv = [
            "/bin/sh",
            "-c",
            f'ulimit -d {limit}; exec "$@"',
            "sh",
            *read_argv(agent, self.tree),
        ]
        return _run(argv, workspace, {**places, **(env or {})}, scratch)


@contextmanager
def listen(folder: Path) -> Iterator[ListeningHub]:
    """A hub that listens on a free port while the block runs; its token file is in `folder`."""
    token_file = folder / "agent-token"
    token_file.write_text("t0ken\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Plane)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    _Plane.hub = hub = ListeningHub(url=url, token_file=token_file)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def read_manifest(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(path.read_text())
    return loaded


def read_argv(agent: str, tree: Path = ROOT) -> Sequence[str]:
    """The argv of an agent's manifest, for this interpreter and the scripts in `tree`."""
    argv = read_manifest(tree / "agents.d" / f"{agent}.yaml")["spec"]["executor"]["argv"]
    return [sys.executable if a == "python3" else a.replace("/workspace", str(tree), 1) for a in argv]


def _run(argv: Sequence[str], workspace: Path, env: Mapping[str, str], scratch: Path) -> Done:
    with open(scratch / "stdout", "wb") as out, open(scratch / "stderr", "wb") as err:
        process = subprocess.Popen(argv, cwd=workspace, env=env, stdout=out, stderr=err)
        watchdog = threading.Timer(TIMEOUT_S, process.kill)
        watchdog.start()
        _, status, usage = os.wait4(process.pid, 0)
        watchdog.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    printed = (scratch / "stdout").read_text()
    return Done(
        exit_code=process.returncode,
        result=json.loads(printed) if printed else None,
        errors=(scratch / "stderr").read_text(),
        output=scratch / "output",
        cpu_s=usage.ru_utime + usage.ru_stime,
    )


class _Plane(BaseHTTPRequestHandler):
    """Answers for the `ListeningHub` of the test that runs."""

    hub: ListeningHub

    def do_GET(self) -> None:
        size = int(parse_qs(urlsplit(self.path).query)["max"][0])
        first = self.hub.handed_out
        batch = self.hub.mailbox[first : first + size]
        self.hub.handed_out += len(batch)
        self._answer(200, {"messages": batch, "cursor": f"k.{self.hub.handed_out}"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = json.loads(self.rfile.read(length))
        if self.path.endswith("/ack"):
            self.hub.acknowledged = int(body["cursor"].removeprefix("k."))
            self._answer(204, None)
            return
        self.hub.received.append(
            {"path": self.path, "authorization": self.headers.get("Authorization"), "message": body}
        )
        if body["type"] == "delegation.request" and self.hub.status == 202:
            self._delegate(body)
            return
        self._answer(self.hub.status, {"code": "forbidden"} if self.hub.status >= 400 else {"status": "accepted"})

    def _delegate(self, request: Mapping[str, Any]) -> None:
        """At once, or by the mailbox where the hub `is_late`."""
        if self.hub.delegate is None:
            self._answer(403, {"code": "forbidden"})
            return
        payload = self.hub.delegate(request["payload"])
        reply = {"from": "hub", "id": "r", "type": "delegation.request", "correlation_id": request["id"]}
        reply |= {"pattern": "reply", "payload": payload}
        if self.hub.is_late:
            self.hub.mailbox.append(reply)
            self._answer(202, {"status": "accepted"})
        else:
            self._answer(200, reply)

    def _answer(self, status: int, content: object) -> None:
        answer = json.dumps(content).encode() if content is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
