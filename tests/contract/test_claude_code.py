"""Claude Code, the real program, as the executor of an instance on each runtime: in a container it has no network.

Control is left out: the sockets of the instance are held by stand-ins of the router and of the model.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest

from reconciler.core.reading import Ok
from reconciler.identity.token import write_token
from reconciler.kinds.agent.container import Places, build_container
from reconciler.kinds.agent.spec import AgentSpec
from tests.agentd.fake_hub import FakeHub
from tests.agentd.models import find_claude
from tests.contract.runtimes import FACTORIES, RuntimeUnderTest
from tests.fakes.messages_api import MessagesApi
from tests.kinds.agent.build import manifest_of

INSTANCE = "writer-0"
IMAGE = "agents/claude:1"
WAIT_S = 60.0


@dataclass(frozen=True)
class Stage:
    """One instance with Claude Code, and both its sockets."""

    hub: FakeHub
    model: MessagesApi
    read_logs: Callable[[], str]
    is_container: bool


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.engine)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with ExitStack() as stack:
        under = FACTORIES[request.param](Path())
        stack.callback(under.close)
        folder = Path(tempfile.mkdtemp(prefix="claude-", dir="/var/tmp"))  # of /tmp an instance has its own
        folder.chmod(0o755)
        stack.callback(shutil.rmtree, folder)
        path = "" if under.has_images else f"{_share(find_claude(), folder)}:{os.environ['PATH']}"
        image_id = _resolve(under) if under.has_images else under.image_id
        places = Places(fleet="f", seal_key=b"k" * 32, run=folder, state=folder)
        uid = under.runtime.uid_for(INSTANCE)
        hub = _open_sockets(stack, places, uid)
        model = stack.enter_context(MessagesApi(str(places.hub(INSTANCE) / "llm.sock")))
        _let_in(places.hub(INSTANCE))
        spec = build_container("writer", 0, _spec(path), places, image_id=image_id, uid=uid)
        container = under.runtime.create(spec)
        under.runtime.start(container)
        yield Stage(
            hub=hub,
            model=model,
            read_logs=lambda: under.runtime.logs(container, 100),
            is_container=under.has_images,
        )


def _spec(path: str) -> AgentSpec:
    executor = {"type": "claude-code", "allowedTools": ["Bash"], "env": {"PATH": path} if path else {}}
    resources = {"memory": "1GiB", "pids": 256}
    llm = {"provider": "somebody", "model": "claude-x"}
    return manifest_of(image=IMAGE, executor=executor, llm=llm, resources=resources, health={"heartbeat": "500ms"}).spec


def _share(program: Path, folder: Path) -> Path:
    """A directory with the program that any user may run."""
    shared = folder / "bin"
    shared.mkdir()
    try:
        os.link(program.resolve(), shared / "claude")
    except OSError:
        shutil.copy(program, shared / "claude")
    return shared


def _resolve(under: RuntimeUnderTest) -> str:
    found = under.runtime.resolve_image(IMAGE)
    if isinstance(found, Ok):
        return found.value
    assert not os.environ.get("RECONCILER_REQUIRE_CLAUDE"), f"there is no {IMAGE}, and it is required"
    pytest.skip(f"no {IMAGE}; build it: make image-claude")


def _open_sockets(stack: ExitStack, places: Places, uid: int) -> FakeHub:
    for directory in (places.hub(INSTANCE), places.secrets(INSTANCE)):
        directory.mkdir(parents=True)
    write_token(places.secrets(INSTANCE), "token-1", uid)
    hub = FakeHub(places.hub(INSTANCE))
    hub.token_file.unlink()
    hub.start()
    stack.callback(hub.stop)
    _let_in(places.secrets(INSTANCE))
    return hub


def _let_in(directory: Path) -> None:
    for path in (directory, *directory.iterdir()):
        if not path.is_file():
            path.chmod(0o777)


SCRIPT = """
tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '
env
cat ~/.claude.json ~/.claude/*
echo made > $HUB_OUTPUT/a.md
"""


def test_it_completes_a_task(stage: Stage) -> None:
    stage.model.use_tool("Bash", command=SCRIPT)
    stage.model.say("The work is done.")
    hub = stage.hub
    hub.wait_until(lambda: bool(hub.received("agent.hello")), "a hello", WAIT_S)
    assert hub.wait_for("agent.hello")["executor"] == "claude-code"
    hub.assign(prompt="Do the work.", timeout_s=WAIT_S, output={"maxSize": 10_000, "artefacts": ["*.md"]})
    hub.wait_until(lambda: bool(hub.received("task.completed") or hub.received("task.failed")), "an end", WAIT_S)
    assert [f["error"] + f["stderr_tail"] for f in hub.payloads("task.failed")] == [], stage.read_logs()
    done = hub.wait_for("task.completed")
    assert done["result"] == "The work is done."
    assert [a["name"] for a in done["artefacts"]] == ["a.md"]
    assert (done["usage"]["turns"], done["usage"]["input_tokens"]) == (2, 24)
    assert set(stage.model.models()) == {"claude-x"}
    assert {asked.headers["authorization"] for asked in stage.model.asked} == {"Bearer token-1"}
    seen = stage.model.asked[-1].body["messages"][-1]["content"][0]["content"]
    assert "HUB_TASK=demo" in seen
    assert "token-1" not in seen
    if stage.is_container:
        assert list(takewhile(lambda line: "=" not in line, seen.splitlines())) == ["lo"], "no network"
