"""A fake hub on a real socket, and real daemons that talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .fake_hub import FakeHub

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("AGENTD_PYTHON", sys.executable)
SECRET = "swordfish-of-the-daemon"


@dataclass
class Agentd:
    """One daemon process; its log is in a file."""

    process: subprocess.Popen[bytes]
    log_path: Path
    scratch: Path

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def messages(self) -> list[str]:
        return [row["msg"] for row in self.log()]

    def stop(self, *, times: int = 1) -> None:
        for _ in range(times):
            self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 60.0) -> int:
        return self.process.wait(timeout_s)


StartAgentd = Callable[..., Agentd]


@pytest.fixture
def hub_directory() -> Iterator[Path]:
    """Short, since a socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hub-") as directory:
        yield Path(directory)


@pytest.fixture
def hub(hub_directory: Path) -> Iterator[FakeHub]:
    fake = FakeHub(hub_directory)
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def start_agentd(hub: FakeHub, tmp_path: Path) -> Iterator[StartAgentd]:
    """Start a daemon: `argv`, `env` and `timeouts` of its executor, then any key of HUB_CONFIG.

    `executor` is for others than `command`: it comes in the place of the first three.
    """
    started: list[Agentd] = []

    def start(
        *argv: str,
        env: dict[str, str] | None = None,
        timeouts: dict[str, float] | None = None,
        wait_ready: bool = True,
        **config: object,
    ) -> Agentd:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        content = {
            "version": "7",
            "capabilities": ["docs.write"],
            "executor": {
                "type": "command",
                "argv": list(argv),
                "env": env or {},
                "timeouts": timeouts or {},
            },
            "heartbeat_s": 0.1,
            "grace_s": 8,
            "scratch": str(scratch),
            "port": 0,
            "llm_port": 0,
            **config,
        }
        log_path = tmp_path / f"agentd-{len(started)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [PYTHON, "-S", "-W", "error", "-m", "reconciler.agentd"],
                env={
                    "PATH": os.environ["PATH"],
                    "LANG": "C.UTF-8",
                    "PYTHONPATH": str(REPOSITORY),
                    "HUB_SOCKET": hub.socket_path,
                    "HUB_TOKEN_FILE": str(hub.token_file),
                    "HUB_AGENT": "demo",
                    "HUB_INSTANCE": "demo-0",
                    "HUB_CONFIG": json.dumps(content),
                    "DAEMON_SECRET": SECRET,
                },
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        agentd = Agentd(process, log_path, scratch)
        started.append(agentd)
        if wait_ready:
            hub.wait_for("agent.hello")
        return agentd

    yield start
    for agentd in started:
        agentd.process.kill()
        agentd.process.wait()


def wait_until(is_true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"did not come about: {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
