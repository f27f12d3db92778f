"""Notes in a real repository: only objects and one ref change, and nothing of the repository runs."""

import os
from pathlib import Path

import pytest

from reconciler.errors import SourceError
from reconciler.source.notes import Notes, is_repository, notes_ref
from tests.source.repo import Repo, make_repo

REF = notes_ref("0a1b2c3d")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"a": "1\n"})


def files(repo: Repo) -> dict[str, bytes]:
    """Everything in the work tree and the git directory but objects, and what belongs to the notes."""
    return {
        str(path.relative_to(repo.path)): path.read_bytes()
        for path in repo.path.rglob("*")
        if path.is_file() and "objects" not in path.parts and "notes" not in path.parts
    }


def test_a_note_is_what_git_log_shows_and_is_replaced_whole(repo: Repo) -> None:
    head = repo.git("rev-parse", "HEAD")
    notes = Notes(str(repo.path), REF)
    assert notes.read_all() == {}
    notes.write(head, "one\ntwo\n")
    assert repo.git("log", "--notes=reconciler/0a1b2c3d", "--format=%N").strip() == "one\ntwo"
    notes.write(head, "three\n")
    assert notes.read_all() == {head: "three\n"}


def test_nothing_else_in_the_repository_changes(repo: Repo) -> None:
    before = files(repo)
    Notes(str(repo.path), REF).write(repo.git("rev-parse", "HEAD"), "text")
    assert files(repo) == before
    assert repo.git("for-each-ref", "--format=%(refname)").split() == ["refs/heads/main", REF]


def test_the_same_text_again_makes_no_commit(repo: Repo) -> None:
    head = repo.git("rev-parse", "HEAD")
    notes = Notes(str(repo.path), REF)
    notes.write(head, "text\n")
    before = repo.git("rev-parse", REF)
    notes.write(head, "text\n")
    assert repo.git("rev-parse", REF) == before


def test_each_note_is_a_commit_on_the_one_before_so_that_older_ones_stay_in_the_history(repo: Repo) -> None:
    notes = Notes(str(repo.path), REF)
    first = repo.git("rev-parse", "HEAD")
    second = repo.commit({"a": "2\n"})
    for commit in (first, second):
        notes.write(commit, f"of {commit}\n")
    assert repo.git("rev-list", "--count", REF) == "2"
    assert notes.read_all() == {first: f"of {first}\n", second: f"of {second}\n"}


def test_no_hook_and_no_program_of_the_repository_runs(repo: Repo, tmp_path: Path) -> None:
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    trap.chmod(0o755)
    for hook in ("reference-transaction", "pre-commit", "post-commit", "post-rewrite", "prepare-commit-msg"):
        (repo.path / ".git/hooks").mkdir(exist_ok=True)
        (repo.path / ".git/hooks" / hook).symlink_to(trap)
    for key in ("core.editor", "core.fsmonitor", "gpg.program", "core.pager"):
        repo.git("config", key, str(trap))
    repo.git("config", "commit.gpgSign", "true")
    (tmp_path / "ran").unlink(missing_ok=True)
    Notes(str(repo.path), REF).write(repo.git("rev-parse", "HEAD"), "text")
    assert not (tmp_path / "ran").exists()


def test_a_bare_repository_has_notes_too(repo: Repo, tmp_path: Path) -> None:
    bare = Repo(tmp_path / "bare", "clone", "--quiet", "--bare", str(repo.path), ".")
    head = repo.git("rev-parse", "HEAD")
    Notes(str(bare.path), REF).write(head, "text")
    assert Notes(str(bare.path), REF).read_all() == {head: "text\n"}


def test_two_fleets_write_notes_side_by_side(repo: Repo) -> None:
    head = repo.git("rev-parse", "HEAD")
    one, other = Notes(str(repo.path), notes_ref("one")), Notes(str(repo.path), notes_ref("two"))
    one.write(head, "of one")
    other.write(head, "of two")
    assert (one.read_all(), other.read_all()) == ({head: "of one\n"}, {head: "of two\n"})


def test_a_note_that_cannot_be_written_says_where_and_why(repo: Repo, tmp_path: Path) -> None:
    head = repo.git("rev-parse", "HEAD")
    lock = repo.path / ".git" / f"{REF}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(SourceError, match=r"writing the note of [0-9a-f]{12} in .*lock"):
        Notes(str(repo.path), REF).write(head, "text")
    lock.unlink()
    with pytest.raises(SourceError, match="is not a git repository"):
        Notes(str(tmp_path / "nowhere"), REF).write(head, "text")
    assert is_repository(str(repo.path))
    assert not is_repository(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write as somebody else")
def test_what_root_writes_into_somebodys_repository_belongs_to_them(repo: Repo) -> None:
    head = repo.git("rev-parse", "HEAD")
    for path in repo.path.parents:
        if not path.stat().st_mode & 0o001:
            path.chmod(0o755)
    for path in (repo.path, *repo.path.rglob("*")):
        os.chown(path, 12345, 12345)
    Notes(str(repo.path), REF).write(head, "text")
    assert {path.stat().st_uid for path in repo.path.rglob("*")} == {12345}
