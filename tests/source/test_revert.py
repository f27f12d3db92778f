"""The revert commit: made on the tracked branch by who asks, or not at all, with the work tree as it was."""

from pathlib import Path

import pytest

from reconciler.errors import SourceError
from reconciler.source.revert import find_obstacle, make_revert, show_commands
from tests.source.repo import Repo

ALL = (".",)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """Three commits on main; git is set up for nobody."""
    for name, value in {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    made = Repo(tmp_path / "repo", "init", "-q", "-b", "main")
    made.commit({"a.yaml": "1", "b.yaml": "1", "gone.yaml": "1"}, "One")
    made.git("rm", "-q", "gone.yaml")
    made.commit({"a.yaml": "2", "new.yaml": "2"}, "Two")
    made.commit({"b.yaml": "3"}, "Three")
    return made


def tree(repo: Repo, revision: str = "HEAD") -> str:
    return repo.git("rev-parse", f"{revision}^{{tree}}")


def first(repo: Repo) -> str:
    return repo.git("rev-parse", "HEAD~2")


def test_the_commit_has_the_older_tree_and_the_newest_parent_and_is_by_who_asks(repo: Repo) -> None:
    to, newest = first(repo), repo.git("rev-parse", "HEAD")
    assert find_obstacle(str(repo.path), "main", to, ALL) == ""
    made = make_revert(str(repo.path), to, ALL, "Revert fleet", "Ada <ada@example.org>")
    assert made == repo.git("rev-parse", "main")
    assert tree(repo) == tree(repo, to)
    assert repo.git("rev-parse", "HEAD~1") == newest
    assert repo.git("log", "-1", "--format=%an <%ae>, %cn <%ce>: %s") == (
        "Ada <ada@example.org>, Ada <ada@example.org>: Revert fleet"
    )
    assert repo.git("status", "--porcelain") == ""


def test_git_stays_the_committer_that_it_is_set_up_for(repo: Repo) -> None:
    repo.git("config", "user.name", "Bot")
    repo.git("config", "user.email", "bot@example.org")
    make_revert(str(repo.path), first(repo), ALL, "Revert", "alice")
    assert repo.git("log", "-1", "--format=%an <%ae>, %cn <%ce>") == "alice <bot@example.org>, Bot <bot@example.org>"


def test_only_the_files_named_go_back_and_one_that_was_not_there_then_is_removed(repo: Repo) -> None:
    make_revert(str(repo.path), first(repo), ("a.yaml", "new.yaml"), "Revert agent/a", "ada")
    assert repo.git("ls-files") == "a.yaml\nb.yaml"
    assert [(repo.path / name).read_text() for name in ("a.yaml", "b.yaml")] == ["1", "3"]


def test_where_all_is_so_already_there_is_no_commit(repo: Repo) -> None:
    make_revert(str(repo.path), first(repo), ALL, "Revert", "ada")
    newest = repo.git("rev-parse", "HEAD")
    assert make_revert(str(repo.path), newest, ALL, "Revert", "ada") == ""
    assert repo.git("rev-parse", "HEAD") == newest


def test_a_work_tree_with_changes_is_left_alone(repo: Repo) -> None:
    repo.write("a.yaml", "mine")
    assert find_obstacle(str(repo.path), "main", first(repo), ALL).endswith(
        "has changes that are not committed: a.yaml"
    )
    repo.git("add", "a.yaml")
    assert "not committed: a.yaml" in find_obstacle(str(repo.path), "main", first(repo), ALL)


def test_a_file_that_git_does_not_know_is_not_overwritten_and_any_other_is_no_obstacle(repo: Repo) -> None:
    repo.write("inbox/job.yaml", "a drop")
    assert find_obstacle(str(repo.path), "main", first(repo), ALL) == ""
    repo.write("gone.yaml", "mine")
    assert "has files that git does not know" in find_obstacle(str(repo.path), "main", first(repo), ALL)


def test_another_branch_a_detached_head_and_an_operation_under_way_are_obstacles(repo: Repo) -> None:
    to = first(repo)
    repo.git("switch", "-q", "-c", "other")
    assert find_obstacle(str(repo.path), "main", to, ALL).endswith("is not on the branch main that the hub follows")
    repo.git("switch", "-q", "--detach")
    assert "is not on the branch main" in find_obstacle(str(repo.path), "main", to, ALL)
    repo.git("switch", "-q", "main")
    repo.git("bisect", "start")
    assert "bisect is in progress" in find_obstacle(str(repo.path), "main", to, ALL)


def test_a_bare_repository_and_a_plain_directory_are_no_place_for_it(repo: Repo, tmp_path: Path) -> None:
    bare = Repo(tmp_path / "bare", "init", "-q", "--bare", "-b", "main")
    assert "is bare" in find_obstacle(str(bare.path), "main", first(repo), ALL)
    (tmp_path / "plain").mkdir()
    assert "is no git repository" in find_obstacle(str(tmp_path / "plain"), "main", first(repo), ALL)


def test_a_hook_that_refuses_leaves_all_as_it_was(repo: Repo) -> None:
    hook = repo.path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    newest = repo.git("rev-parse", "HEAD")
    with pytest.raises(SourceError, match="not today"):
        make_revert(str(repo.path), first(repo), ALL, "Revert", "ada")
    assert repo.git("rev-parse", "HEAD") == newest
    assert repo.git("status", "--porcelain") == ""
    assert sorted(p.name for p in repo.path.glob("*.yaml")) == ["a.yaml", "b.yaml", "new.yaml"]


def test_the_commands_can_be_typed_as_they_are(repo: Repo) -> None:
    assert show_commands("main", "abc", ("agents.d/my agent.yaml",), "Revert: it's bad") == (
        "git switch main",
        "git restore --source=abc --staged --worktree -- 'agents.d/my agent.yaml'",
        """git commit -m 'Revert: it'"'"'s bad'""",
    )
