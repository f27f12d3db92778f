"""The lock files: every requirement exact and with digests, no word of where they come from."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / ".ci/requirements.lock"
DEV = ROOT / ".ci/requirements-dev.lock"
CHAT = ROOT / ".ci/requirements-chat.lock"
CHECKER = ROOT / "images/checker/requirements.lock"

LOCKS = pytest.mark.parametrize("lock", [RUN, DEV, CHAT, CHECKER], ids=lambda path: path.parent.name + "/" + path.name)


def entries(lock: Path) -> list[str]:
    """Each requirement with its digests, as one line."""
    text = lock.read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pins(lock: Path) -> dict[str, str]:
    return {name: version for entry in entries(lock) for name, version in re.findall(r"^(\S+)==(\S+)", entry)}


def normal(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@LOCKS
def test_every_requirement_is_exact_and_has_digests(lock: Path) -> None:
    wrong = [
        e for e in entries(lock) if not re.fullmatch(r"[a-z0-9.-]+==\S+( ;[^-]*)?(\s+--hash=sha256:[0-9a-f]{64})+", e)
    ]
    assert wrong == []
    assert entries(lock)


@LOCKS
def test_no_address_and_no_path_of_a_machine_is_in_it(lock: Path) -> None:
    text = lock.read_text()
    assert re.findall(r"\w+://\S*|^\s*--(?!hash)\S*|\s(?:/[\w.-]+){2,}", text, re.MULTILINE) == []


def test_all_dependencies_of_the_project_are_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {normal(r) for r in project["dependencies"]}
    assert needed - {normal(name) for name in pins(RUN)} == set()
    extras = project["optional-dependencies"]
    needed |= {normal(r) for extra in ("chat", "test", "check") for r in extras[extra]}
    assert needed - {normal(name) for name in pins(DEV)} == set()


def test_what_several_locks_pin_has_one_version() -> None:
    assert pins(RUN).items() <= pins(CHAT).items() <= pins(DEV).items()
    assert pins(CHECKER).items() <= pins(RUN).items()
