"""`--revert`: what the commit is about, and what is said where a person has to make it."""

from pathlib import Path

import pytest

from reconciler.cli.revert import revert
from reconciler.core.caller import Caller
from reconciler.core.rollback import Rollback
from reconciler.settings import OperatorSpec
from reconciler.store.store import FILE_NAME, Store
from tests.fakes.texts import agent_text, hub_text
from tests.source.repo import Repo

ALICE = Caller(proven="uid:0", name="alice")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """Two commits on main, the second of which changed both agents; a hub has followed it."""
    for name, value in {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    made = Repo(tmp_path / "repo", "init", "-q", "-b", "main")
    for version in ("1", "2"):
        both = f"{agent_text('b', version=version)}---\n{agent_text('c', version=version)}"
        files = {"hub.yaml": hub_text(), "agents.d/a.yaml": agent_text("a", version=version), "agents.d/bc.yaml": both}
        made.commit({**files, "app.py": version}, f"Version {version}")
    (tmp_path / "data").mkdir()
    store = Store(tmp_path / "data" / FILE_NAME)
    store.set_meta("branch", "main")
    store.close()
    return made


def call(repo: Repo, subject: str, operator: OperatorSpec | None = None, source: str | None = None) -> int:
    to, since = repo.git("rev-parse", "HEAD~1"), repo.git("rev-parse", "HEAD")
    made = Rollback(subject=subject, to=to, since=since, reason="it is slow", actor="uid:0 (alice)", at="")
    place = str(repo.path) if source is None else source
    return revert(made, ALICE, place, str(repo.path.parent / "data"), operator or OperatorSpec(), err=False)


def changed(repo: Repo) -> list[str]:
    return repo.git("diff", "--name-only", "HEAD~1", "HEAD").split()


def test_that_of_the_fleet_is_about_the_whole_tree(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    to = repo.git("rev-parse", "HEAD~1")
    assert call(repo, "fleet") == 0
    assert changed(repo) == ["agents.d/a.yaml", "agents.d/bc.yaml", "app.py"]
    assert repo.git("log", "-1", "--format=%s") == f"Revert fleet to {to[:12]}: it is slow"
    assert capsys.readouterr().out.startswith("reverted on main by commit ")


def test_that_of_an_agent_is_about_its_file(repo: Repo) -> None:
    assert call(repo, "agent/a") == 0
    assert changed(repo) == ["agents.d/a.yaml"]


def test_a_file_that_holds_others_is_for_a_person(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    newest = repo.git("rev-parse", "HEAD")
    assert call(repo, "agent/b") == 1
    assert "bc.yaml also holds agent/c, which would change, too" in capsys.readouterr().err
    assert repo.git("rev-parse", "HEAD") == newest


def test_a_revision_that_the_operator_does_not_allow_is_not_taken_for_an_empty_one(
    repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    repo.commit({"hub.yaml": hub_text(alerts={"sinks": ["mail"]})}, "Mail")
    assert call(repo, "agent/a") == 1
    said = capsys.readouterr()
    assert "is not valid here (hub.yaml" in said.err
    assert "name it with --operator" in said.err
    assert "git restore --source=" in said.out


def test_of_a_remote_repository_there_are_only_the_commands(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    operator = OperatorSpec.model_validate({"source": {"url": "https://example.org/fleet.git", "ref": "release"}})
    assert call(repo, "fleet", operator, source=".") == 1
    said = capsys.readouterr()
    assert "the hub follows a remote repository; commit in a clone of it, and push" in said.err
    assert "  git switch release\n" in said.out
    assert "git restore --source=" in said.out


def test_where_the_fleet_is_a_directory_of_the_repository_only_that_goes_back(repo: Repo) -> None:
    operator = OperatorSpec.model_validate({"source": {"path": "agents.d"}})
    assert call(repo, "fleet", operator) == 0
    assert changed(repo) == ["agents.d/a.yaml", "agents.d/bc.yaml"]
