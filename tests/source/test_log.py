"""What git says of commits: histories, who is behind them, and what they changed, from a real repository."""

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.errors import SourceError
from reconciler.source.log import GitLog
from tests.source.repo import Repo, make_repo

MESSAGE = """Second

Why it was done.

Reviewed-by: Bob <bob@example.org>
Approved-By: Eve <eve@example.org>
Fixes: nothing
"""


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = make_repo(tmp_path / "repo", {"a": "1\n"})
    made.commit({"a": "2\n", "b": "x\n"}, MESSAGE)
    return made


def test_the_history_of_a_branch_is_every_commit_that_it_reaches(repo: Repo) -> None:
    repo.git("switch", "--quiet", "-c", "other")
    other = repo.commit({"c": "1"})
    repo.git("switch", "--quiet", "main")
    with closing(GitLog(str(repo.path))) as log:
        assert log.history("main") == set(repo.git("rev-list", "main").split())
        assert other not in log.history("")
        assert log.history("other") == log.history("main") | {other}
        with pytest.raises(SourceError, match="there is no branch gone"):
            log.history("gone")


def test_a_commit_says_who_made_and_who_approved_it(repo: Repo) -> None:
    head, first = repo.git("rev-list", "main").split()
    with closing(GitLog(str(repo.path))) as log:
        found = log.commits([head, "0" * 40, "no id"])
    assert list(found) == [head]
    assert found[head].revision.author == "Ada <ada@example.org>"
    assert found[head].committer == "Bob <bob@example.org>"
    assert found[head].parents == (first,)
    assert found[head].approvals == ("Reviewed-by: Bob <bob@example.org>", "Approved-By: Eve <eve@example.org>")
    assert found[head].signer == ""
    assert "Why it was done." in found[head].message


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_the_key_that_signed_is_named_as_ssh_keygen_names_it(repo: Repo, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", str(key)], check=True, capture_output=True, text=True).stdout
    settings = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}", "-c", "commit.gpgsign=true")
    repo.git(*settings, "commit", "--quiet", "--allow-empty", "-m", "Signed")
    head = repo.git("rev-parse", "HEAD")
    with closing(GitLog(str(repo.path))) as log:
        assert log.commits([head])[head].signer == f"SSH key {shown.split()[1]}"


def test_a_commit_is_found_by_what_an_operator_would_write(repo: Repo) -> None:
    head, first = repo.git("rev-list", "main").split()
    with closing(GitLog(str(repo.path))) as log:
        assert log.resolve("main") == log.resolve(head[:9]) == head
        assert log.resolve("HEAD~1") == log.resolve("main^") == first
        for name in ("HEAD~9", "HEAD~", "~1", "HEAD~1:a", "-x~1", "HEAD~99999999", "main@{1}"):
            assert log.resolve(name) in (None, first)


def test_a_diff_is_that_of_git_and_without_its_control_characters(repo: Repo) -> None:
    head, first = repo.git("rev-list", "main").split()
    repo.git("config", "diff.external", "/bin/false")
    with closing(GitLog(str(repo.path))) as log:
        assert log.diff(first, head) == repo.git("diff", "--no-ext-diff", first, head) + "\n"
        assert "+1" in log.diff("", first)
        odd = repo.commit({"a": "\x1b[31mred\n"})
        assert "+\ufffd[31mred" in log.diff(head, odd)
        with pytest.raises(SourceError, match="comparing"):
            log.diff("1" * 40, head)


def test_a_name_stands_for_a_commit_or_for_none(repo: Repo) -> None:
    head = repo.git("rev-parse", "HEAD")
    with closing(GitLog(str(repo.path))) as log:
        assert [log.resolve(name) for name in ("main", "HEAD", head[:8])] == [head] * 3
        assert [log.resolve(name) for name in ("gone", "--all", "a b", "")] == [None] * 4


def test_a_directory_that_is_no_repository_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a git repository"):
        GitLog(str(tmp_path))
