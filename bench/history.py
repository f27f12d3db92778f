"""What the size of a repository costs, and how long a push takes until the fleet is as it says.

A pass over 50,000 commits and 5,000 files is held against one over 50 of each. A push to a bare repository, told of
by a webhook, is held against the bare Engine calls that stop, remove, make and start the very same container.
"""

import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.figure import Figure
from bench.fleet import wait_for
from bench.repository import Repository, agent_text
from reconciler.core.reading import Ok
from reconciler.runtime.docker import DockerRuntime
from reconciler.source.repository import LocalRepository
from tests.fakes.fleet import FakeFleet

COMMITS, FILES, SMALL, AGENTS = 50_000, 5_000, 50, 20
TURNS = 25
PUSHES, PUSHED_AGENTS = 7, 5
SECRET = b"bench"
OVERHEAD_S = 0.15
AT_REST_S = 2.0
"""Until the agent that was started just now has nothing more to do, and the hub may ask the repository again."""
CONVERGED_S = 120.0


def measure() -> list[Figure]:
    """Four figures; the last two only where an engine answers and has the image."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        large, small = (_History(Path(folder), n, files) for n, files in ((COMMITS, FILES), (SMALL, SMALL)))
        figures = [
            _compare("no-op pass", large.idle, small.idle),
            _compare("pass at a new commit", large.take_commit, small.take_commit),
        ]
        large.close()
        small.close()
        return [*figures, *_push(Path(folder))]


# --- the size of a repository -----------------------------------------------------------------------------------------


class _History:
    """A fleet on the fake engine that follows a repository of so many commits and files."""

    def __init__(self, folder: Path, commits: int, files: int) -> None:
        self._repository = Repository(folder / f"repository{commits}", AGENTS)
        _grow(self._repository.folder, commits, files)
        state = folder / f"state{commits}"
        state.mkdir()
        self._fleet = FakeFleet(state)
        self._source = LocalRepository(str(self._repository.folder), "main")
        self._fleet.source = self._source  # type: ignore[assignment]
        self._fleet.restart()
        self._fleet.settle()
        self._commits = 0

    def idle(self) -> float:
        """Seconds of a pass that finds nothing to do."""
        return _timed(self._fleet.loop.run_pass)

    def take_commit(self) -> float:
        """Seconds of the pass that takes a commit which changes one agent."""
        self._commits += 1
        self._repository.write(self._commits % AGENTS, memory=f"{64 + self._commits}MiB")
        self._repository.commit()
        seconds = _timed(self._fleet.loop.run_pass)
        self._fleet.settle()
        return seconds

    def close(self) -> None:
        self._fleet.end_hub()
        self._source.close()


def _compare(what: str, ours: Callable[[], float], floor: Callable[[], float]) -> Figure:
    """In turns, so that a busy moment meets both; of all turns the calmest counts."""
    turns = [(ours(), floor()) for _ in range(TURNS)]
    return Figure(
        name=f"{what}, {COMMITS:,} commits, {FILES:,} files",
        value=min(t for t, _ in turns) * 1000,
        unit="ms",
        reference=f"{SMALL} of each",
        reference_value=min(t for _, t in turns) * 1000,
        budget=1.2,
        by_ratio=True,
    )


def _timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def _grow(folder: Path, commits: int, files: int) -> None:
    """So many commits on top, each of which changes one of so many files."""
    head = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    importer = subprocess.Popen(["git", "-C", str(folder), "fast-import", "--quiet"], stdin=subprocess.PIPE)
    assert importer.stdin is not None
    with importer.stdin as out:
        for number in range(commits):
            parent = f"from {head.stdout.strip()}\n" if number == 0 else ""
            place = f"docs/{number % files // 100}/{number % files}.md"
            out.write(
                f"commit refs/heads/main\ncommitter Bench <bench@example.org> {1_600_000_000 + number} +0000\n"
                f"data 2\nx\n{parent}M 100644 inline {place}\ndata {len(str(number))}\n{number}\n".encode()
            )
    assert importer.wait() == 0
    subprocess.run(["git", "-C", str(folder), "reset", "-q", "--hard"], check=True)


# --- from a push to the fleet -----------------------------------------------------------------------------------------


class _Site:
    """A hub that follows a bare repository, and somebody who pushes to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bare = folder, folder / "shared.git"
        self.repository = Repository(folder / "work", 0)
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.bare)], check=True)
        (folder / "secret").write_bytes(SECRET)
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        webhook = {"forge": "github", "listen": f"tcp://127.0.0.1:{self.port}", "secretFile": str(folder / "secret")}
        source = {"url": f"file://{self.bare}", "poll": "1h", "webhook": webhook}
        document = {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"source": source}}
        (folder / "operator.yaml").write_text(json.dumps(document))
        self.hub: subprocess.Popen[bytes] | None = None

    def push(self, value: int) -> None:
        """One agent has another environment; the others stay as they were."""
        for number in range(PUSHED_AGENTS):
            text = agent_text(number).replace("[python3, /workspace/x.py", "[/bin/true")
            more = f"  env: {{VALUE: '{value}'}}\n" if number == 0 else ""
            (self.repository.folder / "agents.d" / f"a{number:04}.yaml").write_text(text + more)
        self.repository.commit()
        subprocess.run(
            ["git", "-C", str(self.repository.folder), "push", "-q", str(self.bare), "HEAD:main"], check=True
        )

    def tell(self, value: int) -> None:
        """What a forge would send."""
        body = json.dumps({"n": value}).encode()
        signature = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        headers = {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Delivery": str(value)}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as door:
            door.request("POST", "/webhooks/github", body, headers)
            assert door.getresponse().status == 202

    def start(self) -> None:
        with (self.folder / "hub.log").open("ab") as log:
            command = [sys.executable, "-P", "-m", "reconciler", "run", *self._places]
            self.hub = subprocess.Popen(command, cwd=self.folder, env=self._environment, stdout=log, stderr=log)

    def down(self) -> None:
        """Also where the hub has died."""
        command = [sys.executable, "-P", "-m", "reconciler", "down", "--now", *self._places]
        subprocess.run(command, cwd=self.folder, env=self._environment, check=False, capture_output=True, timeout=120)
        if self.hub is not None and self.hub.poll() is None:
            self.hub.send_signal(signal.SIGTERM)
            self.hub.wait(60)

    def is_started(self, value: int) -> bool:
        """The changed one runs with its new manifest, whether it has shaken hands or not."""
        rows = self._instances()
        return bool(rows) and rows[0][0] in ("handshaking", "executing") and _value(rows[0][1]) == str(value)

    def is_converged(self, value: int) -> bool:
        """All work, and the changed one with its new manifest."""
        rows = self._instances()
        return [phase for phase, _ in rows] == ["executing"] * PUSHED_AGENTS and self.is_started(value)

    def _instances(self) -> list[tuple[str, str]]:
        """Phase and manifest, by name; nothing before there is a record."""
        file = self.folder / "data/state.db"
        if not file.exists():
            return []
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            try:
                return connection.execute("SELECT phase, manifest FROM instance ORDER BY name").fetchall()
            except sqlite3.OperationalError:
                return []

    @property
    def fleet(self) -> str:
        return str(json.loads((self.folder / "data/fleet.json").read_text())["fleet"])

    @property
    def _places(self) -> tuple[str, ...]:
        return ("--data", str(self.folder / "data"), "--operator", str(self.folder / "operator.yaml"))

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "RECONCILER_RUN": str(self.folder / "run"), "PYTHONPATH": str(Path.cwd())}


def _push(folder: Path) -> list[Figure]:
    probe = DockerRuntime("bench")
    if not isinstance(probe.resolve_image("agents/base:1"), Ok):
        print("no Docker Engine with agents/base:1: push to converged is left out (make image)")
        return []
    with _running(folder / "push") as site, _twin(site) as bare:
        turns = [(*_timed_push(site, value), bare()) for value in range(1, PUSHES + 1)]
    started, converged, floor = (min(seconds) for seconds in zip(*turns, strict=True))
    return [
        Figure(
            name=f"{what}, one idle agent of {PUSHED_AGENTS}",
            value=seconds * 1000,
            unit="ms",
            reference="bare stop and start",
            reference_value=floor * 1000,
            budget=budget,
        )
        for what, seconds, budget in (
            ("push to container", started, None),
            ("push to converged", converged, (1.1 * floor + OVERHEAD_S) * 1000),
        )
    ]


@contextmanager
def _running(folder: Path) -> Iterator[_Site]:
    folder.mkdir()
    site = _Site(folder)
    try:
        site.push(0)
        site.start()
        wait_for(lambda: site.is_converged(0), CONVERGED_S, "the first fleet")
        yield site
    finally:
        site.down()


def _timed_push(site: _Site, value: int) -> tuple[float, float]:
    """Seconds from the forge's word that a push is there, which is when git has ended: to the start, and to the end."""
    site.push(value)
    began = perf_counter()
    site.tell(value)
    _await(lambda: site.is_started(value))
    started = perf_counter() - began
    _await(lambda: site.is_converged(value))
    return started, perf_counter() - began


def _await(condition: Callable[[], bool]) -> None:
    until = perf_counter() + CONVERGED_S
    while not condition():
        assert perf_counter() < until, "the fleet does not converge"
        time.sleep(0.002)


def _value(manifest: str) -> object:
    return json.loads(manifest)["spec"].get("env", {}).get("VALUE")


@contextmanager
def _twin(site: _Site) -> Iterator[Callable[[], float]]:
    """The four bare calls, in seconds, on a container of the same body that has no hub: agentd is idle in it, too."""
    import docker

    client: Any = docker.APIClient(version="auto", timeout=60)
    body = client.inspect_container(f"reconciler-{site.fleet}-a0000-0")
    host = {**body["HostConfig"], "Binds": None, "Mounts": None}
    config = {**body["Config"], "Labels": {}, "HostConfig": host}
    name = f"bench-{site.fleet}"

    def make() -> None:
        client.start(client.create_container_from_config(config, name)["Id"])

    def renew() -> float:
        time.sleep(AT_REST_S)
        began = perf_counter()
        client.stop(name, timeout=1)
        client.remove_container(name, v=True)
        make()
        return perf_counter() - began

    make()
    try:
        yield renew
    finally:
        client.remove_container(name, force=True, v=True)
