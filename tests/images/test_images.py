"""The agents' images on the real engine: what is in them, what is not, in the strict sandbox."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.contract.runtimes import refuse_to_run

ROOT = Path(__file__).parents[2]
AGENT = "agents/base:1"
CHECKER = "agents/checker:1"
CLAUDE = "agents/claude:1"
TOOLS_OF_PYTHON = ("pip", "setuptools", "wheel", "ensurepip")

pytestmark = pytest.mark.engine

Run = Callable[..., str]


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    try:
        client = docker.from_env(timeout=60)
    except docker.errors.DockerException as error:
        refuse_to_run(f"no container engine answers: {error}")
    for image in (AGENT, CHECKER):
        if not client.images.list(image):
            client.close()
            refuse_to_run(f"no {image} on the engine; build it: make image")
    yield client
    client.close()


@pytest.fixture
def run(client: docker.DockerClient) -> Run:
    """Runs a command in a container with the strict sandbox; gives its output."""

    def run(image: str, *argv: str, volumes: dict[str, dict[str, str]] | None = None, user: str = "") -> str:
        output = client.containers.run(
            image,
            list(argv),
            remove=True,
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs={"/tmp": "", "/home/agent": "uid=1000"},
            mem_limit="256m",
            volumes=volumes or {},
            user=user,
            stderr=True,
        )
        return output.decode().strip()

    return run


@pytest.mark.parametrize("image", [AGENT, CHECKER])
def test_agentd_is_there_for_a_user_without_rights(run: Run, image: str) -> None:
    script = "import os, reconciler.agentd as a; print(os.getuid(), os.getgid(), a.__file__)"
    assert run(image, "python3", "-c", script) == "1000 1000 /opt/reconciler/agentd/__init__.py"


def test_git_reads_a_snapshot_that_belongs_to_somebody_else(run: Run, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    for argv in (
        ["init", "-q", str(repository)],
        ["-C", str(repository), "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *argv], env={**os.environ, **identity}, check=True)
    repository.chmod(0o755)
    mounted = {str(repository): {"bind": "/workspaces/x", "mode": "ro"}}
    assert run(AGENT, "git", "-C", "/workspaces/x", "log", "--format=%s", volumes=mounted) == "first"


@pytest.mark.parametrize("image", [AGENT, CHECKER])
def test_no_program_changes_its_user(run: Run, image: str) -> None:
    assert run(image, "find", "/", "-xdev", "-type", "f", "-perm", "/6000", user="0") == ""


def test_nothing_is_there_that_installs_packages_of_python(run: Run) -> None:
    names = ", ".join(map(repr, TOOLS_OF_PYTHON))
    script = f"import importlib.util as u; print([n for n in ({names},) if u.find_spec(n)])"
    assert run(AGENT, "python3", "-c", script) == "[]"


def test_package_lists_translations_and_manuals_are_gone(run: Run) -> None:
    folders = "/var/lib/apt/lists /usr/share/man /usr/share/locale"
    script = f"ls -A {folders} 2>/dev/null | grep -v ':$' | grep . || true"
    assert run(AGENT, "sh", "-c", script) == ""


def test_the_home_of_the_agent_can_be_written(run: Run) -> None:
    assert run(AGENT, "sh", "-c", 'echo "$HOME"; touch "$HOME/x" && pwd') == "/home/agent\n/home/agent"


def test_the_checker_reads_yaml_and_json_schemas(run: Run) -> None:
    script = (
        "import ruamel.yaml, jsonschema_rs, io;"
        "value = ruamel.yaml.YAML(typ='safe').load(io.StringIO('a: 1'));"
        "print(jsonschema_rs.is_valid({'required': ['a']}, value))"
    )
    assert run(CHECKER, "python3", "-c", script) == "True"


def test_the_agents_image_has_nothing_of_the_checkers(run: Run) -> None:
    script = "import importlib.util as u; print(u.find_spec('ruamel'), u.find_spec('jsonschema_rs'))"
    assert run(AGENT, "python3", "-c", script) == "None None"


@pytest.fixture
def claude(client: docker.DockerClient) -> str:
    if not client.images.list(CLAUDE):
        assert not os.environ.get("RECONCILER_REQUIRE_CLAUDE"), f"there is no {CLAUDE}, and it is required"
        pytest.skip(f"no {CLAUDE}; build it: make image-claude")
    return CLAUDE


def test_claude_code_is_the_pinned_one_and_brings_nothing_else(
    client: docker.DockerClient, run: Run, claude: str
) -> None:
    lock = json.loads((ROOT / "images/claude/package-lock.json").read_text())
    version = lock["packages"]["node_modules/@anthropic-ai/claude-code"]["version"]
    assert run(claude, "claude", "--version") == f"{version} (Claude Code)"
    assert run(claude, "sh", "-c", "id -u; command -v node npm || echo none") == "1000\nnone"
    assert run(claude, "find", "/", "-xdev", "-type", "f", "-perm", "/6000", user="0") == ""
    assert client.images.get(claude).attrs["Size"] - client.images.get(AGENT).attrs["Size"] < 260e6


@pytest.mark.parametrize("image", [AGENT, CHECKER])
def test_it_is_small(client: docker.DockerClient, image: str) -> None:
    assert client.images.get(image).attrs["Size"] < 200e6
