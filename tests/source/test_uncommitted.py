"""What differs from the last commit."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import SourceError
from reconciler.source.repository import LocalRepository
from tests.source.repo import Repo, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    files = {f"agents.d/{name}.yaml": f"{name}\n" for name in "abcdef"}
    return make_repo(tmp_path / "repo", {**files, "hub.yaml": "x\n", ".gitignore": "*.bak\n"})


@pytest.fixture
def source(repo: Repo) -> Iterator[LocalRepository]:
    source = LocalRepository(str(repo.path), "main")
    yield source
    source.close()


def test_a_clean_work_tree_has_nothing_uncommitted(source: LocalRepository) -> None:
    assert source.dirty(["agents.d", "hub.yaml", "none.d"]) == ()
    assert source.dirty([""]) == ()
    assert source.dirty([]) == ()


def test_each_way_of_being_uncommitted_is_reported(repo: Repo, source: LocalRepository) -> None:
    folder = repo.path / "agents.d"
    repo.write("agents.d/a.yaml", "edited\n")
    repo.write("agents.d/b.yaml", "B\n")  # of the same size
    (folder / "c.yaml").unlink()
    (folder / "d.yaml").unlink()
    (folder / "d.yaml").symlink_to("e.yaml")
    repo.write("agents.d/staged.yaml", "new\n")
    repo.git("add", "agents.d/staged.yaml")
    repo.write("agents.d/new.yaml", "new\n")
    repo.write("agents.d/ignored.bak", "new\n")
    repo.write("hub.yaml", "not asked for\n")
    assert source.dirty(["agents.d"]) == tuple(
        f"agents.d/{name}.yaml" for name in ("a", "b", "c", "d", "new", "staged")
    )


def test_another_end_of_line_is_no_change(repo: Repo, source: LocalRepository) -> None:
    repo.write("agents.d/a.yaml", "a\r\n")
    os.utime(repo.path / "agents.d/b.yaml")
    assert source.dirty(["agents.d"]) == ()


def test_the_exclude_file_of_the_repository_counts(repo: Repo, source: LocalRepository) -> None:
    (repo.path / ".git/info").mkdir(exist_ok=True)
    (repo.path / ".git/info/exclude").write_text("*.mine\n")
    repo.write("agents.d/x.mine", "1")
    assert source.dirty(["agents.d"]) == ()


def test_nothing_that_is_not_a_file_is_read(repo: Repo, source: LocalRepository) -> None:
    (repo.path / "agents.d/a.yaml").unlink()
    os.mkfifo(repo.path / "agents.d/a.yaml")
    assert source.dirty(["agents.d"]) == ("agents.d/a.yaml",)


def test_it_is_compared_with_what_is_checked_out(repo: Repo, source: LocalRepository) -> None:
    repo.git("switch", "--quiet", "-c", "feature")
    repo.commit({"agents.d/a.yaml": "feature\n"})
    assert source.dirty(["agents.d"]) == ()


def test_an_empty_repository_has_nothing_to_compare_with(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "empty")
    source = LocalRepository(str(repo.path), "main")
    with pytest.raises(SourceError, match="no commit yet"):
        source.dirty(["agents.d"])
    source.close()
