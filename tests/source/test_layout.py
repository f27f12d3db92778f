"""Where a repository keeps things, read from its files."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.source.layout import (
    BranchReader,
    Head,
    Layout,
    find_top,
    is_branch_name,
    locate,
    read_head,
)
from tests.source.repo import Repo, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"a/b/c": "1"})


def layout_of(repo: Repo) -> Layout:
    layout = locate(str(repo.path))
    assert layout is not None
    return layout


def test_a_repository_is_found_from_below(repo: Repo, tmp_path: Path) -> None:
    assert find_top(str(repo.path / "a/b")) == os.path.realpath(repo.path)
    assert find_top("/") is None


def test_a_work_tree_a_bare_repository_and_a_submodule_are_located(repo: Repo, tmp_path: Path) -> None:
    top, git = str(repo.path), str(repo.path / ".git")
    assert locate(top) == Layout(work_tree=top, git_dir=git, common_dir=git)
    assert locate(git) == Layout(work_tree=None, git_dir=git, common_dir=git)
    assert locate(str(repo.path / "a")) is None
    os.rename(repo.path / ".git", tmp_path / "elsewhere")
    (repo.path / ".git").write_text("gitdir: ../elsewhere\n")
    moved = str(tmp_path / "elsewhere")
    assert locate(top) == Layout(work_tree=top, git_dir=moved, common_dir=moved)
    (repo.path / ".git").write_text("not a pointer\n")
    assert locate(top) is None


def test_head_is_a_branch_a_commit_or_a_matter_for_git(repo: Repo) -> None:
    layout, head = layout_of(repo), repo.path / ".git/HEAD"
    assert read_head(layout) == Head(branch="main")
    head.write_text("a" * 40 + "\n")
    assert read_head(layout) == Head(commit="a" * 40)
    for other in ("", "rubbish", "ref: refs/tags/x\n", "ref: refs/heads/.invalid\n"):
        head.write_text(other)
        assert read_head(layout) == Head()
    head.unlink()
    head.symlink_to("refs/heads/main")
    assert read_head(layout) == Head()


def test_a_loose_branch_wins_over_a_packed_one(repo: Repo) -> None:
    layout, reader = layout_of(repo), BranchReader()
    old = repo.git("rev-parse", "main")
    repo.git("pack-refs", "--all")
    assert reader.read(layout, "main") == Ok(old)
    new = repo.commit({"x": "1"})
    assert reader.read(layout, "main") == Ok(new)
    repo.git("update-ref", "-d", "refs/heads/main")
    assert reader.read(layout, "main") == Absent()


def test_only_the_whole_name_of_a_packed_branch_counts(repo: Repo) -> None:
    layout, reader = layout_of(repo), BranchReader()
    repo.git("branch", "mainly")
    repo.git("branch", "my/main")
    repo.git("tag", "-a", "-m", "x", "main")
    repo.git("pack-refs", "--all")
    assert reader.read(layout, "mainl") == Absent()
    assert reader.read(layout, "ain") == Absent()
    assert reader.read(layout, "m.in") == Absent()
    assert reader.read(layout, "mainly") == Ok(repo.git("rev-parse", "HEAD"))


def test_what_is_not_a_plain_file_with_an_id_is_a_matter_for_git(repo: Repo) -> None:
    layout, reader = layout_of(repo), BranchReader()
    (repo.path / ".git/refs/heads/link").write_text("ref: refs/heads/main\n")
    assert isinstance(reader.read(layout, "link"), Unavailable)
    (repo.path / ".git/reftable").mkdir()
    assert isinstance(reader.read(layout, "main"), Unavailable)


def test_a_folder_of_branches_is_no_branch(repo: Repo) -> None:
    repo.git("branch", "team/a")
    assert BranchReader().read(layout_of(repo), "team") == Absent()


def test_branch_names_are_those_that_git_takes(repo: Repo) -> None:
    for name in ("main", "team/prod-1", "v1.0", "übung", "a@b", "feature/#12"):
        assert is_branch_name(name)
        repo.git("check-ref-format", "--branch", name)


@given(st.text(alphabet="ab/.-@{}~^: \\\n", min_size=1, max_size=8))
def test_a_branch_name_that_is_taken_stays_below_its_folder(name: str) -> None:
    if is_branch_name(name):
        assert os.path.normpath(f"/refs/heads/{name}") == f"/refs/heads/{name}"
        assert not name.startswith("-")
