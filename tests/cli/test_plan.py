"""`plan` on a repository that somebody is in the middle of something in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.plan import INSTEAD, plan_command
from reconciler.errors import UsageError
from tests.fakes.texts import agent_text, hub_text
from tests.source.repo import Repo, make_repo

AGENT = "agents.d/a.yaml"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """`main` and `side` change the same line of one agent; HEAD is at `main`."""
    made = make_repo(tmp_path / "repo", {"hub.yaml": hub_text(), AGENT: agent_text()})
    made.git("switch", "--quiet", "-c", "side")
    made.commit({AGENT: agent_text(version="side")})
    made.git("switch", "--quiet", "main")
    made.commit({AGENT: agent_text(version="main")})
    return made


def plan(place: Path, *arguments: str) -> Result:
    return CliRunner().invoke(plan_command, [str(place), *arguments], standalone_mode=False, catch_exceptions=False)


def plan_as_json(place: Path, *arguments: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(plan(place, "-o", "json", *arguments).stdout)
    return value


def detach(repo: Repo) -> None:
    repo.git("checkout", "--quiet", "--detach", "HEAD~1")


def rebase(repo: Repo) -> None:
    assert repo.run("rebase", "side").returncode != 0


def merge(repo: Repo) -> None:
    assert repo.run("merge", "side").returncode != 0


def bisect(repo: Repo) -> None:
    repo.git("bisect", "start", "HEAD", "HEAD~1")


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (detach, "HEAD is detached in {0}; go back with git switch <branch>"),
        (rebase, "a rebase is in progress in {0}; end it with git rebase --continue or --abort"),
        (merge, "a merge is in progress in {0}; end it with git merge --continue or --abort"),
        (bisect, "a bisect is in progress in {0}; end it with git bisect reset"),
    ],
)
def test_a_plan_of_an_unsettled_source_says_so_and_what_it_shows_instead(
    repo: Repo, begin: Callable[[Repo], None], what: str
) -> None:
    begin(repo)
    said = f"{what.format(repo.path)}; {INSTEAD}"
    head = repo.git("rev-parse", "HEAD")
    answer = plan(repo.path)
    assert answer.stdout.splitlines()[:2] == [
        f"source unsettled: {said}",
        f"revision {head[:12]} compared with nothing (as if new)",
    ]
    assert answer.return_value == 2
    value = plan_as_json(repo.path)
    assert (value["unsettled"], value["revision"]) == (said, head)


def test_a_plan_of_a_settled_source_says_nothing_of_it(repo: Repo) -> None:
    assert plan(repo.path).stdout.startswith("revision ")
    assert plan_as_json(repo.path)["unsettled"] == ""


def test_files_as_they_are_are_never_unsettled(repo: Repo, tmp_path: Path) -> None:
    detach(repo)
    assert plan_as_json(repo.path, "--worktree")["unsettled"] == ""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "hub.yaml").write_text(hub_text())
    assert plan_as_json(tmp_path / "plain")["unsettled"] == ""


def test_problems_of_an_unsettled_source_are_those_of_its_head(repo: Repo) -> None:
    repo.commit({AGENT: "kind: Agent\n"})
    repo.git("checkout", "--quiet", "--detach")
    answer = plan(repo.path)
    assert (answer.return_value, answer.stdout) == (1, "")
    assert answer.stderr.startswith("source unsettled: HEAD is detached in ")
    assert AGENT in answer.stderr
    value = plan_as_json(repo.path)
    assert value["unsettled"].endswith(INSTEAD)
    assert value["problems"] != []


@pytest.mark.parametrize("path", [None, "fleet"])
def test_where_a_hub_follows_a_repository_elsewhere_plan_says_what_to_name(tmp_path: Path, path: str | None) -> None:
    operator = tmp_path / "operator.yaml"
    source = {"url": "https://forge.example.org/fleet.git", **({"path": path} if path else {})}
    operator.write_text(json.dumps({"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"source": source}}))
    place = tmp_path / "hub"
    mirror = place / ".reconciler/mirror"
    make_repo(mirror, {"hub.yaml": hub_text(), AGENT: agent_text()})
    with pytest.raises(UsageError) as raised:
        plan(place, "--operator", str(operator))
    said = str(raised.value)
    assert "the hub follows https://forge.example.org/fleet.git, as the operator says: name a clone of it (" in said
    assert (str(mirror) in said) == (path is None)
    answer = plan(mirror, "--operator", str(operator))
    assert answer.return_value == 2, answer.output
