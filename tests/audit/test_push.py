"""Notes that are sent elsewhere: they arrive, only forward, and whoever is away is told of and tried again."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.audit.ledger import find_ledger
from reconciler.audit.push import Push
from reconciler.core.origin import parse_origin
from reconciler.errors import SourceError
from reconciler.settings import OperatorSpec
from reconciler.settings_source import OperatorSource
from reconciler.source.notes import Notes, notes_ref
from reconciler.source.transfer import Remote
from tests.audit.books import Books
from tests.source.repo import Repo, make_repo

REF = notes_ref("0a1b2c3d")
PATIENCE_S = 120.0


@pytest.fixture
def there(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "there", "init", "--quiet", "--bare", ".")


def remote(path: Path) -> Remote:
    return Remote(origin=parse_origin(f"file://{path}"))


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_notes_arrive_though_the_commits_are_not_there(tmp_path: Path, there: Repo) -> None:
    repo = make_repo(tmp_path / "repo", {"a": "1"})
    head = repo.git("rev-parse", "HEAD")
    notes = Notes(str(repo.path), REF)
    notes.push(remote(there.path))
    assert there.git("for-each-ref") == ""
    notes.write(head, "text\n")
    notes.push(remote(there.path))
    assert Notes(str(there.path), REF).read_all() == {head: "text\n"}


def test_no_setting_of_the_repository_has_a_say_in_the_push(tmp_path: Path, there: Repo) -> None:
    repo = make_repo(tmp_path / "repo", {"a": "1"})
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    trap.chmod(0o755)
    (repo.path / ".git/hooks").mkdir(exist_ok=True)
    (repo.path / ".git/hooks/pre-push").symlink_to(trap)
    repo.git("config", f"url.file://{tmp_path}/elsewhere.pushInsteadOf", f"file://{there.path}")
    repo.git("config", "credential.helper", str(trap))
    notes = Notes(str(repo.path), REF)
    notes.write(repo.git("rev-parse", "HEAD"), "text\n")
    notes.push(remote(there.path))
    assert there.git("for-each-ref", "--format=%(refname)") == REF
    assert not (tmp_path / "ran").exists()


def test_what_is_there_is_never_overwritten(tmp_path: Path, there: Repo) -> None:
    first, other = (Notes(str(tmp_path / name), REF, is_ours=True) for name in ("one", "two"))
    first.write("1" * 40, "text\n")
    first.push(remote(there.path))
    other.write("2" * 40, "other\n")
    with pytest.raises(SourceError, match="pushing to file://"):
        other.push(remote(there.path))
    assert Notes(str(there.path), REF).read_all() == {"1" * 40: "text\n"}


def test_a_repository_of_ours_is_made_with_the_first_note_and_needs_no_commits(tmp_path: Path) -> None:
    notes = Notes(str(tmp_path / "notes.git"), REF, is_ours=True)
    assert notes.read_all() == {}
    notes.write("a" * 64, "text\n")
    assert notes.read_all() == {"a" * 64: "text\n"}


def test_a_place_that_is_away_is_told_of_and_tried_again(tmp_path: Path, there: Repo) -> None:
    notes = Notes(str(tmp_path / "notes.git"), REF, is_ours=True)
    notes.write("1" * 40, "text\n")
    away = there.path.rename(tmp_path / "away")
    push = Push(notes, remote(there.path), again_s=0.05)
    push.start()
    wait_until(lambda: push.fault)
    assert push.fault.startswith(f"pushing to file://{there.path}: ")
    away.rename(there.path)
    wait_until(lambda: not push.fault)
    push.close()
    assert list(Notes(str(there.path), REF).read_all()) == ["1" * 40]


def test_a_hub_pushes_the_note_of_what_it_applied(tmp_path: Path, there: Repo) -> None:
    operator = OperatorSpec.model_validate({"audit": {"push": {"url": f"file://{there.path}"}}})
    books = Books(tmp_path, operator)
    commit = books.commit("writer")
    books.settle()
    wait_until(lambda: Notes(str(there.path), REF).read_all())
    books.end()
    assert list(Notes(str(there.path), REF).read_all()) == [commit]


def test_of_a_remote_source_the_notes_are_beside_its_mirror(tmp_path: Path) -> None:
    ledger = find_ledger("https://git.example.org/fleet", OperatorSource(), tmp_path)
    assert (ledger.repository, ledger.notes_path) == (str(tmp_path / "mirror"), str(tmp_path / "notes.git"))
    local = find_ledger(str(tmp_path), OperatorSource(ref="main"), tmp_path / "data")
    assert (local.repository, local.notes_path, local.branch) == (str(tmp_path), str(tmp_path), "main")
    assert local.notes("f") is None
