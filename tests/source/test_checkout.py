"""Checkouts: read-only, whole or not at all."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import SourceError
from reconciler.source.checkout import (
    TreeWriter,
    build_directory,
    reading_environment,
    remove_checkout,
)
from reconciler.source.folder import write_all
from reconciler.source.repository import LocalRepository
from tests.source.repo import IDENTITY, Repo, make_repo
from tests.source.user import ORDINARY_UID, let_through, ordinary_user


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"hub.yaml": "a: 1\n", "bin/run.py": "print()\n"})


@pytest.fixture
def source(repo: Repo) -> Iterator[LocalRepository]:
    source = LocalRepository(str(repo.path), "main")
    yield source
    source.close()


def tree_of(root: Path) -> dict[str, str | bytes]:
    """Contents by path, a link as `-> target`; without `.git`."""
    found: dict[str, str | bytes] = {}
    for path in sorted(root.rglob("*")):
        if ".git" in path.relative_to(root).parts or (path.is_dir() and not path.is_symlink()):
            continue
        name = str(path.relative_to(root))
        found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else path.read_bytes()
    return found


# --- what is in it --------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [False, True])
def test_a_checkout_has_the_bytes_of_the_commit_whatever_attributes_say(
    repo: Repo, source: LocalRepository, tmp_path: Path, history: bool
) -> None:
    files = {
        ".gitattributes": "*.txt text eol=crlf\n*.id ident\nhidden export-ignore\n",
        "a.txt": "one\ntwo\n",
        "b.id": "$Id$\n",
        "hidden": "still here",
        "empty": "",
    }
    commit = repo.commit({**files, "big.bin": os.urandom(2_000_000)})
    repo.write("a.txt", "edited and not committed")
    source.checkout(commit, str(tmp_path / "c"), history=history)
    found = tree_of(tmp_path / "c")
    assert {name: found[name] for name in files} == {k: v.encode() for k, v in files.items()}
    assert found["big.bin"] == (repo.path / "big.bin").read_bytes()
    assert (tmp_path / "c/.git").exists() is history


@pytest.mark.parametrize("history", [False, True])
def test_nothing_in_a_checkout_has_a_write_bit_and_all_may_read_it(
    repo: Repo, source: LocalRepository, tmp_path: Path, history: bool
) -> None:
    (repo.path / "bin/run.py").chmod(0o755)
    repo.commit()
    old = os.umask(0o077)
    try:
        source.checkout("main", str(tmp_path / "c"), history=history)
    finally:
        os.umask(old)
    modes = {p: stat.S_IMODE(p.lstat().st_mode) for p in [tmp_path / "c", *(tmp_path / "c").rglob("*")]}
    assert modes[tmp_path / "c/bin/run.py"] == 0o555
    assert modes[tmp_path / "c/hub.yaml"] == 0o444
    assert {m for p, m in modes.items() if p.is_dir()} == {0o555}
    assert {m for p, m in modes.items() if p.is_file()} == {0o444, 0o555}


def test_links_inside_are_kept_and_others_become_text(repo: Repo, source: LocalRepository, tmp_path: Path) -> None:
    for name, target in {
        "in": "bin/run.py",
        "bin/up": "../hub.yaml",
        "dangling": "nowhere",
        "absolute": "/etc/passwd",
        "bin/out": "../../outside",
        "via": "bin/../../outside",
    }.items():
        os.symlink(target, repo.path / name)
    repo.commit()
    source.checkout("main", str(tmp_path / "c"), history=True)
    found = tree_of(tmp_path / "c")
    assert {n: t for n, t in found.items() if isinstance(t, str)} == {
        "in": "-> bin/run.py",
        "bin/up": "-> ../hub.yaml",
        "dangling": "-> nowhere",
    }
    assert found["absolute"] == (b"symbolic link to /etc/passwd\nnot made, because it may lead out of the tree\n")
    assert b"symbolic link to ../../outside\n" in found["bin/out"]
    assert b"symbolic link to bin/../../outside\n" in found["via"]


def test_names_that_are_not_utf_8_are_checked_out_as_they_are(
    repo: Repo, source: LocalRepository, tmp_path: Path
) -> None:
    blob = repo.blob(b"x")
    repo.commit_tree(repo.hash_tree(f'100644 blob {blob}\t"latin-\\351"'))
    source.checkout("main", str(tmp_path / "c"), history=True)
    assert set(os.listdir(os.fsencode(tmp_path / "c"))) == {b"latin-\xe9", b".git"}


def test_a_submodule_is_an_empty_directory(repo: Repo, source: LocalRepository, tmp_path: Path) -> None:
    head = repo.git("rev-parse", "HEAD")
    repo.commit_tree(repo.hash_tree(f"160000 commit {head}\tmodule"))
    source.checkout("main", str(tmp_path / "c"), history=True)
    assert os.listdir(tmp_path / "c/module") == []


def test_there_is_no_checkout_of_a_revision_that_is_not_there(source: LocalRepository, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no commit 'nosuch'"):
        source.checkout("nosuch", str(tmp_path / "c"), history=False)
    assert not (tmp_path / "c").exists()


# --- whole or not at all --------------------------------------------------------------------------


def test_a_second_checkout_does_nothing(repo: Repo, source: LocalRepository, tmp_path: Path) -> None:
    source.checkout("main", str(tmp_path / "deep/er/c"), history=True)
    before = os.stat(tmp_path / "deep/er/c")
    repo.commit({"x": "1"})
    source.checkout("main", str(tmp_path / "deep/er/c"), history=True)
    assert os.stat(tmp_path / "deep/er/c") == before
    assert os.listdir(tmp_path / "deep/er") == ["c"]


@pytest.mark.parametrize("moment", ["in the middle", "checkout.rename.before"])
def test_a_killed_checkout_leaves_no_half_tree_and_the_next_one_cleans_up(
    source: LocalRepository, tmp_path: Path, moment: str
) -> None:
    code = f"""
import os, signal
from reconciler.source.checkout import TreeWriter, build_directory
with build_directory({str(tmp_path / "c")!r}) as partial:
    TreeWriter(partial).add_file(b"a/b", lambda fd: None)
    if {moment!r} == "in the middle":
        os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "RECONCILER_CRASH_AT": moment}
    done = subprocess.run([sys.executable, "-c", code], env=env, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "c").exists()
    assert len([n for n in os.listdir(tmp_path) if n.startswith(".c.partial-")]) == 1
    source.checkout("main", str(tmp_path / "c"), history=False)
    assert sorted(os.listdir(tmp_path)) == ["c", "repo"]


def test_a_checkout_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="making the checkout"), build_directory(str(tmp_path / "c")) as partial:
        TreeWriter(partial).add_file(b"a", lambda fd: write_all(-1, b"x"))
    assert os.listdir(tmp_path) == []


def test_a_checkout_where_nothing_may_be_written_is_an_error(source: LocalRepository, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="making the checkout"):
        source.checkout("main", str(tmp_path / "file/c"), history=False)


def test_who_is_not_root_can_make_and_remove_a_checkout_that_may_not_be_written(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    mine.chmod(0o777)
    let_through(tmp_path)
    with ordinary_user():
        repo = make_repo(mine / "repo", {"a/b": "1"})
        source = LocalRepository(str(repo.path), "main")
        source.checkout("main", str(mine / "c"), history=True)
        with pytest.raises(PermissionError):
            (mine / "c/new").write_text("x")
        remove_checkout(str(mine / "c"))
        remove_checkout(str(mine / "c"))
        source.close()
    assert os.listdir(mine) == ["repo"]


# --- history --------------------------------------------------------------------------------------


@pytest.fixture
def history(repo: Repo, source: LocalRepository, tmp_path: Path) -> Repo:
    """A checkout with history of a repository with more than that history."""
    repo.git("tag", "light")
    repo.git("tag", "-a", "-m", "One", "v1.0")
    repo.git("branch", "secret-branch")
    repo.commit({"x": "1"}, "Second")
    repo.git("remote", "add", "origin", "https://user:password@example.invalid/x")
    repo.git("config", "user.signingkey", "private")
    repo.git("switch", "--quiet", "secret-branch")
    repo.commit({"secret": "not yours"}, "Elsewhere")
    repo.git("tag", "-a", "-m", "Two", "v2.0-secret")
    repo.git("switch", "--quiet", "main")
    repo.git("update-ref", "refs/tags/broken", repo.git("rev-parse", "main"))
    (repo.path / ".git/refs/tags/broken").write_text("1" * 40 + "\n")
    source.checkout("main", str(tmp_path / "c"), history=True)
    return Repo(tmp_path / "c")


def test_the_history_is_that_of_the_commit_with_its_tags(repo: Repo, history: Repo) -> None:
    assert history.git("log", "--format=%s").split("\n") == ["Second", "First"]
    assert history.git("describe", "--tags", "--match=v*") == "v1.0-1-g" + repo.git("rev-parse", "--short", "main")
    assert history.git("tag", "--list").split("\n") == ["light", "v1.0"]
    assert history.git("log", "--format=%s", "v1.0..HEAD") == "Second"
    history.git("fsck", "--full", "--strict")


def test_the_history_has_nothing_else_of_the_repository(repo: Repo, history: Repo) -> None:
    assert history.git("branch", "--all", "--format=%(refname)") == "(no branch)"
    assert history.git("remote") == ""
    assert "password" not in history.git("config", "--list")
    assert "private" not in history.git("config", "--list")
    for hidden in ("secret-branch:secret", "v2.0-secret"):
        object_id = repo.git("rev-parse", hidden)
        assert history.run("cat-file", "-e", object_id).returncode != 0
    assert not (history.path / ".git/hooks").exists()


def test_the_history_knows_that_its_work_tree_is_clean(history: Repo) -> None:
    assert history.git("status", "--porcelain") == ""
    # The index has the files' times, so that git need not read them all again.
    assert history.git("diff-files", "--raw") == ""


def test_another_user_can_use_git_in_a_checkout(history: Repo, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    let_through(tmp_path)

    def as_agent(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["git", *args],
            cwd=history.path,
            env={**IDENTITY, **env},
            user=ORDINARY_UID,
            group=ORDINARY_UID,
            extra_groups=[],
            capture_output=True,
            timeout=120,
            check=False,
        )

    assert b"dubious ownership" in as_agent({}, "log").stderr
    for command in (["log", "--format=%s"], ["status", "--porcelain"], ["blame", "x"], ["diff"]):
        done = as_agent(reading_environment(), *command)
        assert done.returncode == 0, done.stderr
    done = as_agent(reading_environment(), "clone", "--quiet", ".", str(tmp_path / "nowhere"))
    assert b"dubious" not in done.stderr
