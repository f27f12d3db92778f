"""Running git: nothing that a repository brings along is ever run."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.reading import Ok
from reconciler.errors import SourceError
from reconciler.source.git import (
    EmptyRepository,
    ObjectView,
    closed_environment,
    find_git,
    run_git,
)
from reconciler.source.repository import LocalRepository, current_branch
from tests.source.repo import Repo, bytes_read, children, make_repo

HOOKS = ("post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"hub.yaml": "a: 1\n", "agents.d/a.yaml": "b: 2\n"})


def view_of(repo: Repo, empty: EmptyRepository) -> ObjectView:
    return ObjectView(git_dir=empty.path("sha1"), objects_dir=str(repo.path / ".git/objects"))


# --- hostile repositories -------------------------------------------------------------------------


class Trap:
    """A program that leaves a marker, and a repository that names it wherever git might run one."""

    def __init__(self, repo: Repo, tmp_path: Path) -> None:
        self.repo = repo
        self.marker = tmp_path / "marker"
        self.program = tmp_path / "evil"
        self.program.write_text(f'#!/bin/sh\necho "$0 $@" >> {self.marker}\n')
        self.program.chmod(0o755)

    def arm(self) -> None:
        self.repo.commit({".gitattributes": "* filter=evil diff=evil merge=evil ident text=auto\n"})
        self._plant_replacement()
        hooks = self.repo.path.parent / "hooks"
        hooks.mkdir()
        for directory in (hooks, self.repo.path / ".git/hooks"):
            directory.mkdir(exist_ok=True)
            for hook in HOOKS:
                shutil.copy(self.program, directory / hook)
        included = self.repo.path.parent / "included.config"
        included.write_text(self._config(hooks))
        with (self.repo.path / ".git/config").open("a") as config:
            config.write(self._config(hooks) + f'[include]\n\tpath = "{included}"\n')

    def _config(self, hooks: Path) -> str:
        evil = self.program
        return f"""
[core]
    hooksPath = "{hooks}"
    fsmonitor = "{evil}"
    sshCommand = "{evil}"
    gitProxy = "{evil}"
    pager = "{evil}"
    askPass = "{evil}"
    alternateRefsCommand = "{evil}"
[pager]
    ls-tree = "{evil}"
    diff-tree = "{evil}"
[filter "evil"]
    clean = "{evil}"
    smudge = "{evil}"
    required = true
[diff]
    external = "{evil}"
[diff "evil"]
    textconv = "{evil}"
    command = "{evil}"
[alias]
    ls-tree = "!{evil}"
    cat-file = "!{evil}"
[credential]
    helper = "!{evil}"
[uploadpack]
    packObjectsHook = "{evil}"
[gpg]
    program = "{evil}"
[protocol]
    allow = always
[protocol "ext"]
    allow = always
[protocol "ssh"]
    allow = always
[extensions]
    partialClone = origin
[remote "origin"]
    url = "ssh://example.invalid/x"
    promisor = true
    partialCloneFilter = blob:none
    uploadpack = "{evil}"
"""

    def _plant_replacement(self) -> None:
        head = self.repo.git("rev-parse", "HEAD")
        evil_tree = self.repo.hash_tree(f"100644 blob {self.repo.blob(b'evil')}\thub.yaml")
        other = self.repo.git("commit-tree", "-m", "Replaced", evil_tree)
        self.repo.git("update-ref", f"refs/replace/{head}", other)

    def sprung_by(self, *args: str) -> bool:
        """Whether plain git, as a person would run it, walks into it."""
        self.repo.run(*args)
        was = self.marker.exists()
        self.marker.unlink(missing_ok=True)
        return was


@pytest.fixture
def trap(repo: Repo, tmp_path: Path) -> Trap:
    trap = Trap(repo, tmp_path)
    trap.arm()
    return trap


def test_nothing_that_a_repository_names_is_run(trap: Trap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_SSH_COMMAND", "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_ASKPASS", "GIT_PROXY_COMMAND"):
        monkeypatch.setenv(name, str(trap.program))
    monkeypatch.setenv("GIT_TRACE", str(trap.marker))
    head = (trap.repo.path / ".git/refs/heads/main").read_text().strip()
    trap.repo.write("agents.d/a.yaml", "edited: 1\n")
    source = LocalRepository(str(trap.repo.path), "main")

    assert current_branch(str(trap.repo.path)) == Ok("main")
    revision = source.head()
    assert isinstance(revision, Ok)
    assert revision.value.id == head
    for name in (head, "main", "HEAD~1"):
        reading = source.snapshot(name)
        assert isinstance(reading, Ok)
        with reading.value as snapshot:
            content = snapshot.read(snapshot.entries(""))
        assert content["hub.yaml"] == b"a: 1\n"
    assert source.dirty(["agents.d", "hub.yaml"]) == ("agents.d/a.yaml",)
    assert source.is_ancestor(head, head)
    assert source.diff_names(head, head) == []
    for history in (False, True):
        source.checkout("main", str(tmp_path / f"checkout-{history}"), history=history)
    assert not trap.marker.exists(), trap.marker.read_text()
    source.close()


def test_a_missing_object_is_not_fetched(trap: Trap, tmp_path: Path) -> None:
    blob = trap.repo.git("rev-parse", "main:hub.yaml", env={"GIT_NO_REPLACE_OBJECTS": "1"})
    trap.marker.unlink(missing_ok=True)
    (trap.repo.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    source = LocalRepository(str(trap.repo.path), "main")
    reading = source.snapshot("main")
    assert isinstance(reading, Ok)
    with reading.value as snapshot, pytest.raises(SourceError, match="missing"):
        snapshot.read(snapshot.entries("hub.yaml"))
    for history in (False, True):
        with pytest.raises(SourceError, match="missing"):
            source.checkout("main", str(tmp_path / "c"), history=history)
    assert not (tmp_path / "c").exists()
    assert not trap.marker.exists(), trap.marker.read_text()
    source.close()


def test_the_trap_of_these_tests_works(trap: Trap) -> None:
    """The negative control: without our care, git runs the program."""
    assert trap.sprung_by("status")
    trap.repo.write("hub.yaml", "edited\n")
    assert trap.sprung_by("diff")
    assert trap.sprung_by("fetch", "origin")
    (trap.repo.path / "hub.yaml").unlink()
    assert trap.sprung_by("checkout", "--", "hub.yaml")
    assert trap.repo.git("cat-file", "-p", "main:hub.yaml") == "evil"
    assert trap.sprung_by("cat-file", "-p", "1" * 40)


# --- environment ----------------------------------------------------------------------------------


def test_git_is_found_by_an_absolute_path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".::/usr/bin")
    find_git.cache_clear()
    assert os.path.isabs(find_git())
    assert find_git() != str(tmp_path / "git")
    find_git.cache_clear()


def test_the_environment_of_git_is_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    env = closed_environment("/repo/.git")
    assert env["GIT_DIR"] == "/repo/.git"
    assert not {"HOME", "GIT_CONFIG_COUNT", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK"} & env.keys()


def test_importing_the_package_does_not_import_gitpython() -> None:
    code = "import sys, reconciler.source.repository as r; sys.exit('git' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_git_that_takes_too_long_is_an_error(repo: Repo) -> None:
    fifo = repo.path / ".git/refs/heads/stuck"
    os.mkfifo(fifo)
    with pytest.raises(SourceError, match=r"no answer after 0\.2 s"):
        run_git(str(repo.path / ".git"), ["rev-parse", "refs/heads/stuck"], timeout_s=0.2)


def test_what_git_complains_about_is_printable_and_short(repo: Repo) -> None:
    answer = run_git(str(repo.path / ".git"), ["rev-parse", "--verify", "\x1b[2J" + "x" * 5000])
    assert answer.code != 0
    assert answer.complaint.isprintable()
    assert len(answer.complaint) < 3000


def test_a_repository_of_somebody_else_is_read_because_the_operator_named_it(repo: Repo) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a repository away")
    for directory, _, files in os.walk(repo.path):
        for name in (".", *files):
            os.chown(os.path.join(directory, name), 1234, 1234, follow_symlinks=False)
    env = closed_environment("") | {"HOME": "/nonexistent"}
    del env["GIT_DIR"]
    plain = subprocess.run(["git", "-C", str(repo.path), "status"], env=env, capture_output=True, check=False)
    assert b"dubious ownership" in plain.stderr
    source = LocalRepository(str(repo.path), "main")
    assert isinstance(source.head(), Ok)
    assert isinstance(source.snapshot("HEAD"), Ok)
    source.close()


# --- the empty repository -------------------------------------------------------------------------


def test_an_empty_repository_is_made_again_after_a_cleaner_took_it() -> None:
    empty = EmptyRepository()
    path = empty.path("sha1")
    shutil.rmtree(os.path.dirname(path))
    assert empty.path("sha1") == path
    env = {"GIT_OBJECT_DIRECTORY": os.path.dirname(path)}
    assert run_git(path, ["rev-parse", "--git-dir"], env=env).code == 0
    empty.close()
    assert not os.path.exists(path)


def test_an_empty_repository_goes_away_with_its_owner() -> None:
    empty = EmptyRepository()
    path = empty.path("sha256")
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    del empty
    assert not os.path.exists(path)


# --- objects --------------------------------------------------------------------------------------


def test_many_objects_are_read_in_the_order_asked(repo: Repo) -> None:
    empty = EmptyRepository()
    contents = [f"{number}\n".encode() * number for number in range(300)]
    ids = [repo.blob(content) for content in contents[:30]] * 10
    reader = view_of(repo, empty).cat_file()
    assert list(reader.read(ids).items()) == list(zip(ids[:30], contents[:30], strict=True))
    reader.close()


def test_an_object_is_refused_before_its_content_is_read(repo: Repo) -> None:
    empty = EmptyRepository()
    big = repo.blob(b"\0" * 50_000_000)
    reader = view_of(repo, empty).cat_file()
    before = bytes_read()
    with pytest.raises(SourceError, match="has 50000000 bytes, more than 1048576"):
        reader.read([big])
    assert bytes_read() - before < 2**20
    with pytest.raises(SourceError, match="git cat-file is gone"):
        reader.read([big])


def test_a_large_object_is_copied_whole(repo: Repo, tmp_path: Path) -> None:
    empty = EmptyRepository()
    content = os.urandom(3_000_001)
    big = repo.blob(content)
    reader = view_of(repo, empty).cat_file()
    with (tmp_path / "copy").open("wb") as out:
        reader.copy(big, out.fileno())
    assert (tmp_path / "copy").read_bytes() == content
    reader.close()


def test_content_that_does_not_match_its_id_is_an_error(repo: Repo, tmp_path: Path) -> None:
    empty = EmptyRepository()
    good, other = repo.blob(b"good"), repo.blob(b"evil")
    objects = repo.path / ".git/objects"
    path = objects / good[:2] / good[2:]
    path.unlink()
    shutil.copy(objects / other[:2] / other[2:], path)
    for attempt in ("read", "copy"):
        reader = view_of(repo, empty).cat_file()
        with pytest.raises(SourceError, match=f"object {good} is corrupt"):
            reader.read([good]) if attempt == "read" else reader.copy(good, 1)


def test_an_object_of_another_kind_is_an_error(repo: Repo) -> None:
    empty = EmptyRepository()
    reader = view_of(repo, empty).cat_file()
    with pytest.raises(SourceError, match="is not a blob"):
        reader.read([repo.git("rev-parse", "HEAD")])


def test_a_reader_that_is_killed_is_an_error(repo: Repo) -> None:
    empty = EmptyRepository()
    reader = view_of(repo, empty).cat_file()
    blob = repo.git("rev-parse", "HEAD:hub.yaml")
    reader.read([blob])
    [process] = children()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(SourceError, match="git cat-file"):
        reader.read([blob])
    reader.close()
