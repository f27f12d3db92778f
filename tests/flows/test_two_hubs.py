"""Two hubs that follow one repository: each has a fleet of its own, and touches nothing of the other's. Real engine."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.flows.fleet import Fleet, agent_text, make_fleet, need_engine
from tests.outside.checker import check_docker, engine


@dataclass
class Follower(Fleet):
    """A hub beside a repository that is elsewhere."""

    shared: Path = field(default_factory=Path)

    @property
    def places(self) -> tuple[str, ...]:
        return ("--source", f"file://{self.shared}", "--data", str(self.data))

    def check(self) -> list[str]:
        return check_docker(self.shared, self.id)

    def containers(self) -> dict[str, str]:
        """Id by name of what the engine has of this fleet; and that each runs."""
        wanted = json.dumps({"label": [f"io.reconciler.fleet={self.id}"]})
        listed: list[dict[str, Any]] = engine("GET", f"/containers/json?all=1&filters={quote(wanted)}")
        assert {c["State"] for c in listed} <= {"running"}
        return {c["Names"][0]: c["Id"] for c in listed}

    def begin_apply(self) -> "subprocess.Popen[str]":
        return self.start("apply", *self.places, "--timeout", "240")


@pytest.fixture
def author() -> Iterator[Fleet]:
    """Who works on the repository, and pushes."""
    need_engine("docker")
    made = make_fleet("docker")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(made.folder / "shared.git")], check=True)
    yield made
    made.destroy()


@pytest.fixture
def hubs(author: Fleet) -> Iterator[tuple[Follower, Follower]]:
    made = [make_fleet("docker") for _ in range(2)]
    first, second = (Follower(folder=m.folder, runtime="docker", shared=author.folder / "shared.git") for m in made)
    yield first, second
    first.destroy()
    second.destroy()


def push(author: Fleet, files: Mapping[str, str]) -> None:
    author.commit(files)
    author.git("push", "-q", str(author.folder / "shared.git"), "HEAD:main")


def apply_both(first: Follower, second: Follower) -> None:
    """At the same time."""
    running = [hub.begin_apply() for hub in (first, second)]
    said = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], said


@pytest.mark.engine
def test_two_hubs_follow_one_repository_and_neither_touches_what_is_the_others(
    author: Fleet, hubs: tuple[Follower, Follower]
) -> None:
    first, second = hubs
    both = {f"agents.d/{name}.yaml": agent_text(name) for name in ("a", "b")}
    push(author, both)
    apply_both(first, second)
    assert first.id != second.id
    assert (first.check(), second.check()) == ([], [])
    of_first, of_second = first.containers(), second.containers()
    assert len(of_first) == len(of_second) == 2
    assert not set(of_first.values()) & set(of_second.values())

    push(author, {**both, "agents.d/b.yaml": agent_text("b", memory="160MiB")} | {"agents.d/c.yaml": agent_text("c")})
    apply_both(first, second)
    assert (first.check(), second.check()) == ([], [])

    push(author, {"agents.d/a.yaml": agent_text("a"), "agents.d/c.yaml": agent_text("c")})
    before = second.containers()
    assert first.apply().code == 0
    assert (first.check(), second.containers()) == ([], before)

    assert first.call("down", *first.places).code == 0
    assert (first.containers(), second.containers()) == ({}, before)
    assert second.apply().code == 0
    assert second.check() == []
