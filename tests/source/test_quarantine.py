"""What is pushed and not accepted yet lies in a directory of its own, and is read from there."""

import os
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok
from reconciler.source.repository import LocalRepository
from tests.source.repo import Repo, make_repo


def quarantined(tmp_path: Path, name: str = "bare.git") -> tuple[Path, Path, str]:
    """A bare repository, a quarantine in it as git makes it for a push, and the commit that is only there."""
    work = make_repo(tmp_path / "work", {"hub.yaml": "one"})
    work.git("clone", "--quiet", "--bare", ".", str(tmp_path / name))
    bare = tmp_path / name
    quarantine = bare / "objects" / "tmp_objdir-incoming-x"
    quarantine.mkdir()
    env = {"GIT_OBJECT_DIRECTORY": str(quarantine), "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(work.path / ".git/objects")}
    blob = work.git("hash-object", "-w", "--stdin", stdin=b"two", env=env)
    tree = work.git("mktree", stdin=f"100644 blob {blob}\thub.yaml\n".encode(), env=env)
    commit = work.git("commit-tree", "-p", "HEAD", "-m", "Pushed", tree, env=env)
    return bare, quarantine, commit


def content(source: LocalRepository, revision: str) -> bytes | None:
    found = source.snapshot(revision)
    if not isinstance(found, Ok):
        assert isinstance(found, Absent)
        return None
    with found.value as snapshot:
        return snapshot.read(snapshot.entries("hub.yaml"))["hub.yaml"]


@pytest.mark.parametrize("name", ["bare.git", 'with:colon and "quote\\.git'])
def test_both_the_pushed_and_the_accepted_commits_are_there(tmp_path: Path, name: str) -> None:
    bare, quarantine, commit = quarantined(tmp_path, name)
    source = LocalRepository(str(bare), None, quarantine=str(quarantine))
    accepted = Repo(bare).git("rev-parse", "HEAD")
    assert (content(source, commit), content(source, accepted)) == (b"two", b"one")
    assert source.is_ancestor(accepted, commit)
    assert not source.is_ancestor(commit, accepted)
    assert list(source.diff_names(accepted, commit)) == [("M", "hub.yaml")]
    source.close()


def test_without_the_quarantine_what_is_pushed_is_not_there(tmp_path: Path) -> None:
    bare, _quarantine, commit = quarantined(tmp_path)
    source = LocalRepository(str(bare), None)
    assert content(source, commit) is None
    source.close()


def test_objects_of_another_place_are_not_taken_for_a_push(tmp_path: Path) -> None:
    bare, quarantine, commit = quarantined(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    quarantine.rename(elsewhere)
    os.symlink(elsewhere, bare / "objects" / "link")
    for place in (elsewhere, bare / "objects" / "link", bare / "objects"):
        source = LocalRepository(str(bare), None, quarantine=str(place))
        assert content(source, commit) is None
        source.close()
