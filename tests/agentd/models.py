"""What the tests of executors that ask a model have in common: a stand-in of the model, and Claude Code, real or not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.messages_api import MessagesApi

from .conftest import Agentd, StartAgentd
from .fake_hub import FakeHub

FAKE_CLAUDE = Path(__file__).parents[1] / "fakes/claude.py"
MCP_SERVER = FAKE_CLAUDE.with_name("mcp_server.py")
StartClaude = Callable[..., Agentd]


def find_claude() -> Path:
    """The real program; RECONCILER_REQUIRE_CLAUDE turns skipping for want of it into a failure."""
    found = os.environ.get("RECONCILER_CLAUDE") or shutil.which("claude")
    if not found:
        assert not os.environ.get("RECONCILER_REQUIRE_CLAUDE"), "there is no Claude Code, and it is required"
        pytest.skip("no Claude Code: set RECONCILER_CLAUDE to what images/claude/fetch prints")
    return Path(found)


@pytest.fixture
def model(hub: FakeHub, hub_directory: Path) -> Iterator[MessagesApi]:
    """The models' socket beside the hub's; what is behind it answers as told."""
    with MessagesApi(str(hub_directory / "llm.sock")) as api:
        yield api


@pytest.fixture(params=["fake", "real"])
def claude(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory for the PATH with `claude` in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "claude"
    if request.param == "real":
        program.symlink_to(find_claude())
    else:
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {FAKE_CLAUDE} "$@"\n')
        program.chmod(0o755)
    return directory


@pytest.fixture
def start_claude(start_agentd: StartAgentd, claude: Path, model: MessagesApi, tmp_path: Path) -> StartClaude:
    """Start a daemon whose executor is Claude Code; further keywords are those of the executor."""
    home = tmp_path / "home"
    home.mkdir()

    def start(env: dict[str, str] | None = None, max_parallel: int = 1, **executor: object) -> Agentd:
        path = f"{claude}:{os.environ['PATH']}"
        around = {"PATH": path, "HOME": str(home), "CLAUDE_CODE_MAX_RETRIES": "1", **(env or {})}
        asks = {"type": "claude-code", "env": around, "model": "claude-x", **executor}
        return start_agentd(executor=asks, max_parallel=max_parallel)

    return start
