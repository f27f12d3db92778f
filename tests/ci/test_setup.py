"""`.ci/setup` on machines that lack something: what it says, and which command mends it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELL_TOOLS = ("sh", "dirname", "head", "env")


class Machine:
    """A copy of the set-up scripts, and a PATH on which stands only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.bin = folder / "bin"
        shutil.copytree(ROOT / ".ci", self.tree / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
        self.bin.mkdir()
        for tool in SHELL_TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def python(self, name: str, *, version: str = "3.12.1", has_venv: bool = True) -> None:
        """A Python that only answers what the launcher asks, and says when it gets the work."""
        new_enough = int(tuple(map(int, version.split(".")[:2])) < (3, 11))
        self.command(
            name,
            'case "$*" in\n'
            f"  --version) echo Python {version} ;;\n"
            f"  *version_info*) exit {new_enough} ;;\n"
            f"  *ensurepip*) exit {int(not has_venv)} ;;\n"
            f"  *) echo {name} does: $* ;;\n"
            "esac",
        )

    def real_python(self) -> None:
        self.command("python3", f'exec {sys.executable} "$@"')

    def setup(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.tree / ".ci/setup"), *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.tree), **env},
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_any_python_it_says_how_to_get_one(machine: Machine) -> None:
    done = machine.setup()
    assert done.returncode == 1
    assert "no Python 3.11 or newer on PATH (no python3 at all)" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr
    assert "PYTHON=" in done.stderr


def test_an_old_python_is_named_with_its_version(machine: Machine) -> None:
    machine.python("python3", version="3.9.2")
    done = machine.setup()
    assert done.returncode == 1
    assert "python3 is Python 3.9.2" in done.stderr


def test_a_newer_python_beside_an_old_one_is_found(machine: Machine) -> None:
    machine.python("python3", version="3.9.2")
    machine.python("python3.12")
    done = machine.setup("--dev")
    assert done.returncode == 0
    assert "python3.12 does:" in done.stdout
    assert done.stdout.rstrip().endswith("setup.py --base --dev")


def test_a_python_without_venv_names_the_package_that_has_it(machine: Machine) -> None:
    machine.python("python3", has_venv=False)
    done = machine.setup()
    assert done.returncode == 1
    assert "lacks venv or ensurepip" in done.stderr
    assert "apt-get install python3-venv" in done.stderr


def test_a_python_with_venv_is_preferred_to_one_without(machine: Machine) -> None:
    machine.python("python3", has_venv=False)
    machine.python("python3.11", version="3.11.2")
    assert "python3.11 does:" in machine.setup().stdout


def test_a_named_python_that_is_not_there_is_refused(machine: Machine) -> None:
    machine.python("python3")
    done = machine.setup(PYTHON="python9")
    assert done.returncode == 1
    assert "PYTHON=python9: there is no such command" in done.stderr


def test_a_named_python_that_is_too_old_is_refused(machine: Machine) -> None:
    machine.python("python3")
    machine.python("python3.10", version="3.10.4")
    done = machine.setup(PYTHON="python3.10")
    assert done.returncode == 1
    assert "PYTHON=python3.10 is not Python 3.11 or newer, it says: Python 3.10.4" in done.stderr


def test_without_git_it_says_how_to_get_it(machine: Machine) -> None:
    machine.real_python()
    done = machine.setup()
    assert done.returncode == 1
    assert "git is missing" in done.stderr
    assert "apt-get install git" in done.stderr


def test_an_old_git_is_refused_with_its_version(machine: Machine) -> None:
    machine.real_python()
    machine.command("git", "echo git version 2.20.1")
    done = machine.setup()
    assert done.returncode == 1
    assert "git 2.39 or newer is needed, this one says: git version 2.20.1" in done.stderr


def test_a_venv_that_is_a_link_is_not_emptied(machine: Machine) -> None:
    machine.real_python()
    machine.command("git", "echo git version 2.39.5")
    theirs = machine.tree.parent / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()
    (machine.tree / ".venv").symlink_to(theirs)
    done = machine.setup()
    assert done.returncode == 1
    assert f".venv is a link to {theirs}" in done.stderr
    assert [path.name for path in theirs.iterdir()] == ["precious"]


def test_without_a_network_it_says_what_to_check_and_goes_on_from_there(machine: Machine) -> None:
    machine.real_python()
    machine.command("git", "echo git version 2.39.5")
    done = machine.setup(
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_NO_CACHE_DIR="1",
        PIP_RETRIES="1",
        PIP_CONFIG_FILE="/dev/null",
    )
    assert done.returncode == 1
    assert "The package index cannot be reached" in done.stderr
    assert "HTTPS_PROXY" in done.stderr
    assert "make setup" in done.stderr
    assert not (machine.tree / ".venv/bin/reconciler").exists()
    again = machine.setup(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1", PIP_NO_CACHE_DIR="1")
    assert again.returncode == 1
    assert "making .venv" not in again.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_alone_lists_every_command() -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    for target in ("setup", "run", "test", "check", "bench", "image"):
        assert f"make {target} " in done.stdout


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_a_make_that_is_too_old_is_told_so() -> None:
    done = subprocess.run(["make", "-C", str(ROOT), ".FEATURES="], capture_output=True, text=True)
    assert done.returncode == 2
    assert "GNU make 4.0 or newer is needed" in done.stderr
    assert "apt-get install make" in done.stderr
