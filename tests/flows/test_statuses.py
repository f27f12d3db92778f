"""Commit statuses of a real hub at a real server: a failure for the broken commit, a success for its fix."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.alerts.forges import TOKEN, Forge, forge
from tests.flows.fleet import Fleet, agent_text, eventually, files_below


@pytest.fixture
def at() -> Iterator[Forge]:
    with forge("gitea") as made:
        yield made


@contextmanager
def running(fleet: Fleet, operator: Path) -> Iterator[subprocess.Popen[str]]:
    """A hub that is killed at the end, and has not said the token."""
    hub = fleet.start("run", *fleet.places, *fleet.permission, "--operator", str(operator))
    try:
        yield hub
    finally:
        if hub.poll() is None:
            hub.kill()
        out, err = hub.communicate(timeout=180)
        assert TOKEN not in out + err


def configure(fleet: Fleet, at: Forge) -> Path:
    token, operator = fleet.folder / "token", fleet.folder / "operator.yaml"
    token.write_text(TOKEN)
    section = at.section(
        str(token), settle="500ms", context="reconciler/test", link="https://hub.example.org/{revision}"
    )
    operator.write_text(
        json.dumps({"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"commitStatus": section}})
    )
    return operator


def applied(fleet: Fleet) -> str:
    return str(fleet.state()["revision"])


def test_a_broken_commit_is_a_failure_and_its_fix_a_success_also_over_a_kill(processes: Fleet, at: Forge) -> None:
    fleet, operator = processes, configure(processes, at)
    good = fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with running(fleet, operator):
        eventually(lambda: at.states(good) == ["pending", "success"])
        broken = fleet.commit({"agents.d/a.yaml": agent_text("a", more="  rol: x\n")})
        eventually(lambda: at.states(broken) == ["failure"])
        at.trouble = lambda _n: 500
        fixed = fleet.commit({"agents.d/a.yaml": agent_text("a", argv="[python3, -V]")})
        eventually(lambda: applied(fleet) == fixed)
        eventually(lambda: at.requests > 3)
    at.trouble = lambda _n: 0
    with running(fleet, operator):
        eventually(lambda: at.states(fixed) == ["pending", "success"])
    assert [at.states(c) for c in (good, broken)] == [["pending", "success"], ["failure"]]
    assert "1 problem; first: agents.d/a.yaml:" in next(s.description for s in at.statuses if s.sha == broken)
    assert {(s.context, s.link == f"https://hub.example.org/{s.sha}") for s in at.statuses} == {
        ("reconciler/test", True)
    }
    for path, content in files_below(fleet.data, fleet.run):
        assert TOKEN.encode() not in content, path


def test_a_command_that_converges_and_ends_has_told_how_it_came_out(processes: Fleet, at: Forge) -> None:
    fleet, operator = processes, configure(processes, at)
    good = fleet.commit({"agents.d/a.yaml": agent_text("a")})
    assert fleet.apply("--operator", str(operator)).code == 0
    assert at.states(good) == ["pending", "success"]
    broken = fleet.commit({"agents.d/a.yaml": agent_text("a", more="  rol: x\n")})
    assert fleet.apply("--operator", str(operator)).code == 1
    assert at.states(broken) == ["failure"]
