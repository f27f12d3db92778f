"""`LocalRepository`: which revision is in force, and what is in it."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import SourceError
from reconciler.ports import Revision
from reconciler.source.repository import LocalRepository, current_branch
from reconciler.source.unavailable import SourceCondition, condition_of
from tests.source.repo import Repo, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"hub.yaml": "a: 1\n", "agents.d/writer.yaml": "b: 2\n"})


@pytest.fixture
def source(repo: Repo) -> Iterator[LocalRepository]:
    source = LocalRepository(str(repo.path), "main")
    yield source
    source.close()


def ok(reading: Reading[Revision]) -> Revision:
    assert isinstance(reading, Ok), reading
    return reading.value


def refused(reading: Reading[Revision], condition: SourceCondition) -> str:
    assert isinstance(reading, Unavailable), reading
    assert condition_of(reading) is condition
    return reading.reason


def unsettled(reading: Reading[Revision]) -> str:
    return refused(reading, SourceCondition.UNSETTLED)


def unavailable(reading: Reading[Revision]) -> str:
    return refused(reading, SourceCondition.UNAVAILABLE)


# --- head -----------------------------------------------------------------------------------------


def test_head_says_who_committed_what_and_when(repo: Repo, source: LocalRepository) -> None:
    commit = repo.commit({"x": "1"}, "Add a reviewer\n\nBecause.")
    assert source.head() == Ok(
        Revision(
            id=commit,
            author="Ada <ada@example.org>",
            subject="Add a reviewer",
            time=datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC),
            audited=True,
        )
    )


def test_head_follows_the_branch_and_not_what_is_checked_out(repo: Repo, source: LocalRepository) -> None:
    main = repo.git("rev-parse", "main")
    repo.git("switch", "--quiet", "-c", "feature")
    repo.commit({"x": "1"})
    assert ok(source.head()).id == main


def test_head_reads_packed_branches_and_sees_them_move(repo: Repo, source: LocalRepository) -> None:
    repo.git("pack-refs", "--all")
    assert ok(source.head()).id == repo.git("rev-parse", "main")
    second = repo.commit({"x": "1"})
    assert ok(source.head()).id == second
    repo.git("pack-refs", "--all")
    assert ok(source.head()).id == second


def test_head_reads_a_branch_with_a_slash(repo: Repo) -> None:
    repo.git("branch", "team/prod")
    source = LocalRepository(str(repo.path), "team/prod")
    assert ok(source.head()).id == repo.git("rev-parse", "main")
    source.close()


def test_a_branch_that_refers_to_another_is_resolved(repo: Repo) -> None:
    repo.git("symbolic-ref", "refs/heads/live", "refs/heads/main")
    source = LocalRepository(str(repo.path), "live")
    assert ok(source.head()).id == repo.git("rev-parse", "main")
    source.close()


def test_a_directory_without_repository_is_unavailable(tmp_path: Path) -> None:
    source = LocalRepository(str(tmp_path), "main")
    assert "not the top of a git repository; run git init" in unavailable(source.head())
    assert isinstance(source.snapshot("main"), Unavailable)
    with pytest.raises(SourceError, match="not the top of a git repository"):
        source.checkout("main", str(tmp_path / "c"), history=False)
    source.close()


def test_a_path_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    source = LocalRepository(str(tmp_path / "gone"), "main")
    assert "not the top of a git repository" in unavailable(source.head())
    assert source.watch_paths() == []
    source.close()


def test_an_empty_repository_says_that_there_is_no_commit_yet(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "empty")
    for branch in ("main", None):
        source = LocalRepository(str(repo.path), branch)
        assert "has no commit yet; commit the manifests first" in unavailable(source.head())
        source.close()


def test_a_branch_that_is_gone_is_not_confused_with_an_empty_one(repo: Repo, source: LocalRepository) -> None:
    repo.git("branch", "--move", "main", "trunk")
    assert "there is no branch main" in unavailable(source.head())


def test_a_detached_head_is_unsettled(repo: Repo, source: LocalRepository) -> None:
    repo.git("switch", "--quiet", "--detach")
    assert "HEAD is detached" in unsettled(source.head())
    repo.git("switch", "--quiet", "main")
    assert isinstance(source.head(), Ok)


def test_a_detached_head_is_taken_as_it_is_where_no_branch_is_followed(repo: Repo) -> None:
    commit = repo.commit({"x": "1"})
    repo.commit({"x": "2"})
    repo.git("switch", "--quiet", "--detach", commit)
    source = LocalRepository(str(repo.path), None)
    assert ok(source.head()).id == commit
    source.close()


@pytest.fixture
def conflict(repo: Repo) -> Repo:
    """`main` and `other` change the same line."""
    repo.git("branch", "other")
    repo.commit({"hub.yaml": "a: main\n"})
    repo.git("switch", "--quiet", "other")
    repo.commit({"hub.yaml": "a: other\n"})
    repo.git("switch", "--quiet", "main")
    return repo


@pytest.mark.parametrize(
    ("command", "what", "end"),
    [
        (["rebase", "other"], "a rebase is in progress", ["rebase", "--abort"]),
        (["rebase", "--apply", "other"], "a rebase or git am", ["rebase", "--abort"]),
        (["merge", "other"], "a merge is in progress", ["merge", "--abort"]),
        (["cherry-pick", "other"], "a cherry-pick is in progress", ["cherry-pick", "--abort"]),
        (["revert", "--no-commit", "HEAD~1"], "a revert is in progress", ["revert", "--abort"]),
        (["bisect", "start"], "a bisect is in progress", ["bisect", "reset"]),
    ],
)
def test_an_operation_in_progress_is_unsettled_until_it_ends(
    conflict: Repo, source: LocalRepository, command: list[str], what: str, end: list[str]
) -> None:
    conflict.run(*command)
    reason = unsettled(source.head())
    assert what in reason
    assert "end it with git" in reason
    conflict.git(*end)
    assert ok(source.head()).id == conflict.git("rev-parse", "main")


def test_a_bare_repository_is_followed(repo: Repo, tmp_path: Path) -> None:
    repo.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare.git"))
    source = LocalRepository(str(tmp_path / "bare.git"), "main")
    assert ok(source.head()).id == repo.git("rev-parse", "main")
    assert source.dirty(["agents.d"]) == ()
    source.close()


def test_a_linked_work_tree_has_its_own_head_and_the_common_branches(
    repo: Repo, source: LocalRepository, tmp_path: Path
) -> None:
    repo.git("worktree", "add", "--quiet", "-b", "live", str(tmp_path / "linked"))
    linked = Repo(tmp_path / "linked")
    commit = linked.commit({"x": "1"})
    follower = LocalRepository(str(linked.path), "live")
    assert ok(follower.head()).id == commit
    linked.git("switch", "--quiet", "--detach")
    assert "HEAD is detached" in unsettled(follower.head())
    assert isinstance(source.head(), Ok)
    follower.close()


def test_a_sha256_repository_works_whole(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "r", "init", "-q", "--initial-branch=main", "--object-format=sha256")
    commit = repo.commit({"agents.d/a.yaml": "a"})
    source = LocalRepository(str(repo.path), "main")
    assert ok(source.head()).id == commit
    assert len(commit) == 64
    assert read_all(source, commit) == {"agents.d/a.yaml": b"a"}
    source.checkout(commit, str(tmp_path / "c"), history=True)
    assert Repo(tmp_path / "c").git("log", "--format=%H") == commit
    source.close()


def test_a_hostile_branch_name_is_refused(repo: Repo) -> None:
    for name in ("../../etc/passwd", "-rf", "a..b", "a b", "a\n", "", "refs@{0}", "a.lock", "/a"):
        with pytest.raises(SourceError, match="is not the name of a branch"):
            LocalRepository(str(repo.path), name)


def test_a_branch_that_holds_rubbish_is_unavailable(repo: Repo, source: LocalRepository) -> None:
    (repo.path / ".git/refs/heads/main").write_text("")
    assert "cannot be read" in unavailable(source.head())


def test_a_branch_whose_commit_is_missing_is_unavailable(repo: Repo, source: LocalRepository) -> None:
    (repo.path / ".git/refs/heads/main").write_text("1" * 40 + "\n")
    assert f"commit {'1' * 40} is missing" in unavailable(source.head())


def test_what_a_commit_says_cannot_write_to_a_terminal(repo: Repo, source: LocalRepository) -> None:
    repo.commit({"x": "1"}, "Nice \x1b[2J\u202e subject")
    assert ok(source.head()).subject == "Nice \ufffd[2J\ufffd subject"


# --- current_branch -------------------------------------------------------------------------------


def test_the_current_branch_is_known_even_before_the_first_commit(tmp_path: Path) -> None:
    assert current_branch(str(make_repo(tmp_path / "empty").path)) == Ok("main")


def test_there_is_no_current_branch_on_a_detached_head(repo: Repo) -> None:
    repo.git("switch", "--quiet", "--detach")
    reading = current_branch(str(repo.path))
    assert isinstance(reading, Unavailable)
    assert condition_of(reading) is SourceCondition.UNSETTLED


def test_there_is_no_current_branch_outside_of_a_repository(tmp_path: Path) -> None:
    assert isinstance(current_branch(str(tmp_path)), Unavailable)


# --- snapshot -------------------------------------------------------------------------------------


def read_all(source: LocalRepository, revision: str, folder: str = "") -> dict[str, bytes]:
    reading = source.snapshot(revision)
    assert isinstance(reading, Ok), reading
    with reading.value as snapshot:
        return dict(snapshot.read(snapshot.entries(folder)))


def test_a_snapshot_stays_what_it_was_when_the_branch_moves(repo: Repo, source: LocalRepository) -> None:
    first = ok(source.head())
    reading = source.snapshot(first.id)
    assert isinstance(reading, Ok)
    repo.commit({"hub.yaml": "changed\n"})
    with reading.value as snapshot:
        assert snapshot.revision == first
        assert snapshot.read(snapshot.entries("hub.yaml")) == {"hub.yaml": b"a: 1\n"}


def test_a_snapshot_is_found_by_what_an_operator_would_write(repo: Repo, source: LocalRepository) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.git("tag", "-a", "-m", "One", "v1.0")
    repo.commit({"x": "1"})
    for name in (first, first[:8], "v1.0", "HEAD~1", "main^", "refs/tags/v1.0"):
        reading = source.snapshot(name)
        assert isinstance(reading, Ok), name
        assert reading.value.revision.id == first
        reading.value.close()


@pytest.mark.parametrize("name", ["nosuch", "1" * 40, "abcdef0", "main~99"])
def test_a_revision_that_is_not_there_is_absent(source: LocalRepository, name: str) -> None:
    assert source.snapshot(name) == Absent()


@pytest.mark.parametrize("name", ["--all", "-h", "main..x", "main:hub.yaml", "@{-1}", ":/First", "a b", "", "^main"])
def test_a_revision_that_is_no_plain_name_is_not_given_to_git(source: LocalRepository, name: str) -> None:
    reading = source.snapshot(name)
    assert isinstance(reading, Unavailable)
    assert "write a commit id, a branch, a tag, or HEAD~1" in reading.reason


def test_the_id_of_a_file_is_no_revision(repo: Repo, source: LocalRepository) -> None:
    reading = source.snapshot(repo.git("rev-parse", "HEAD:hub.yaml"))
    assert not isinstance(reading, Ok)


# --- ancestry -------------------------------------------------------------------------------------


def test_a_force_pushed_branch_does_not_descend_from_what_it_was(repo: Repo, source: LocalRepository) -> None:
    first = repo.git("rev-parse", "HEAD")
    old = repo.commit({"x": "1"})
    assert source.is_ancestor(first, old)
    assert source.is_ancestor(old, old)
    repo.git("reset", "--quiet", "--hard", first)
    new = repo.commit({"x": "2"})
    assert not source.is_ancestor(old, new)
    assert not source.is_ancestor(new, first)


def test_a_commit_that_was_collected_is_no_ancestor(repo: Repo, source: LocalRepository) -> None:
    assert not source.is_ancestor("1" * 40, repo.git("rev-parse", "HEAD"))


def test_a_new_commit_that_is_missing_is_an_error(repo: Repo, source: LocalRepository) -> None:
    with pytest.raises(SourceError, match="comparing"):
        source.is_ancestor(repo.git("rev-parse", "HEAD"), "1" * 40)
    with pytest.raises(SourceError, match="not a full commit id"):
        source.is_ancestor("main", "--all")


def test_a_shallow_clone_does_not_pretend_to_know_the_history(repo: Repo, tmp_path: Path) -> None:
    first = repo.git("rev-parse", "HEAD")
    for number in range(3):
        repo.commit({"x": str(number)})
    repo.git("clone", "--quiet", "--depth=2", f"file://{repo.path}", str(tmp_path / "shallow"))
    source = LocalRepository(str(tmp_path / "shallow"), "main")
    head = ok(source.head()).id
    assert source.is_ancestor(repo.git("rev-parse", "HEAD~1"), head)
    with pytest.raises(SourceError, match="git fetch --unshallow"):
        source.is_ancestor(first, head)
    assert read_all(source, head)["x"] == b"2"
    source.checkout(head, str(tmp_path / "c"), history=True)
    checkout = Repo(tmp_path / "c")
    assert checkout.git("rev-list", "--count", "HEAD") == "2"
    checkout.git("fsck", "--strict")
    source.close()


# --- for people -----------------------------------------------------------------------------------


def test_the_names_of_what_differs_between_two_commits(repo: Repo, source: LocalRepository) -> None:
    first = repo.git("rev-parse", "HEAD")
    (repo.path / "hub.yaml").unlink()
    second = repo.commit({"agents.d/writer.yaml": "new", "agents.d/ü b.yaml": ""})
    assert source.diff_names(first, second) == [
        ("M", "agents.d/writer.yaml"),
        ("A", "agents.d/ü b.yaml"),
        ("D", "hub.yaml"),
    ]
    with pytest.raises(SourceError, match="comparing"):
        source.diff_names(first, "1" * 40)
    with pytest.raises(SourceError, match="not a full commit id"):
        source.diff_names("--output=x", second)


# --- watching -------------------------------------------------------------------------------------


def test_every_way_in_which_a_branch_moves_touches_a_watched_directory(repo: Repo, tmp_path: Path) -> None:
    repo.git("branch", "team/prod")
    repo.git("worktree", "add", "--quiet", str(tmp_path / "linked"), "team/prod")
    source = LocalRepository(str(tmp_path / "linked"), "team/prod")
    git = os.path.realpath(repo.path / ".git")
    assert source.watch_paths() == [
        f"{git}/worktrees/linked",
        git,
        f"{git}/refs/heads",
        f"{git}/refs/heads/team",
    ]
    source.close()


# --- broken repositories --------------------------------------------------------------------------


def test_a_repository_that_comes_back_is_read_again(repo: Repo, source: LocalRepository) -> None:
    moved = repo.path.with_name("moved")
    repo.path.rename(moved)
    assert isinstance(source.head(), Unavailable)
    moved.rename(repo.path)
    assert isinstance(source.head(), Ok)


def test_a_corrupt_commit_is_unavailable_and_not_absent(repo: Repo, source: LocalRepository) -> None:
    commit = repo.git("rev-parse", "HEAD")
    damage(repo, commit)
    assert "corrupt" in unavailable(source.head()) or "inflate" in unavailable(source.head())
    assert isinstance(source.snapshot(commit), Unavailable)


def test_a_corrupt_tree_is_an_error_that_says_so(repo: Repo, source: LocalRepository) -> None:
    damage(repo, repo.git("rev-parse", "HEAD:agents.d"))
    reading = source.snapshot("main")
    assert isinstance(reading, Ok)
    with reading.value as snapshot, pytest.raises(SourceError, match="git fsck"):
        snapshot.entries("agents.d")


def damage(repo: Repo, object_id: str) -> None:
    path = repo.path / ".git/objects" / object_id[:2] / object_id[2:]
    path.chmod(0o644)
    path.write_bytes(b"not zlib at all")
