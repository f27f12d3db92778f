"""What every `Source` keeps to, the fake included."""

import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.errors import SourceError
from reconciler.ports import Revision, Snapshot, Source
from reconciler.source.directory import DirectorySource
from reconciler.source.repository import LocalRepository
from reconciler.source.subdirectory import Subdirectory
from reconciler.source.unavailable import SourceCondition, condition_of
from tests.fakes.source import FakeSource
from tests.source.remotes import Shared, await_head, await_that, follow, mirror_of
from tests.source.repo import Repo, make_repo


class Subject(Protocol):
    """A source, and how to change what it reads."""

    source: Source

    @abstractmethod
    def change(self, path: str, content: bytes) -> None:
        """A new revision with this file."""

    @abstractmethod
    def break_it(self) -> None:
        """From now on there is nothing to read."""


class FakeSubject(Subject):
    def __init__(self) -> None:
        self.source = self.fake = FakeSource()
        self.files: dict[str, bytes] = {}

    def change(self, path: str, content: bytes) -> None:
        self.files[path] = content
        self.fake.commit(self.files)

    def break_it(self) -> None:
        self.fake.fail("SourceUnavailable: broken")


class RepositorySubject(Subject):
    def __init__(self, path: Path) -> None:
        self.repo: Repo = make_repo(path)
        self.source = LocalRepository(str(path), "main")

    def change(self, path: str, content: bytes) -> None:
        self.repo.commit({path: content})

    def break_it(self) -> None:
        self.repo.path.rename(self.repo.path.with_name("moved"))


class SubdirectorySubject(Subject):
    def __init__(self, path: Path) -> None:
        self.inner = RepositorySubject(path)
        self.source = Subdirectory(self.inner.source, "fleets/a")

    def change(self, path: str, content: bytes) -> None:
        """A checkout is of the whole repository, so that the same is at its top."""
        self.inner.repo.commit({f"fleets/a/{path}": content, path: content, f"fleets/b/{path}": b"not this one\n"})

    def break_it(self) -> None:
        self.inner.break_it()


class RemoteSubject(Subject):
    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.shared = Shared(path)
        self.source = self.remote = follow(mirror_of(path, self.shared.url))

    def change(self, path: str, content: bytes) -> None:
        commit = self.shared.push({path: content.decode()})
        if self.remote.is_following:
            await_head(self.remote, commit)

    def break_it(self) -> None:
        self.shared.bare.path.rename(self.shared.bare.path.with_name("moved"))
        self.remote.refresh()
        await_that(lambda: isinstance(self.remote.head(), Unavailable))


class DirectorySubject(Subject):
    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.source = DirectorySource(str(path))

    def change(self, path: str, content: bytes) -> None:
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        (self.path / path).write_bytes(content)

    def break_it(self) -> None:
        self.path.rename(self.path.with_name("moved"))


@pytest.fixture(params=["fake", "repository", "subdirectory", "remote", "directory"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    subject: FakeSubject | RepositorySubject | SubdirectorySubject | RemoteSubject | DirectorySubject
    match request.param:
        case "fake":
            subject = FakeSubject()
        case "repository":
            subject = RepositorySubject(tmp_path / "source")
        case "subdirectory":
            subject = SubdirectorySubject(tmp_path / "source")
        case "remote":
            subject = RemoteSubject(tmp_path / "source")
        case _:
            subject = DirectorySubject(tmp_path / "source")
    subject.change("hub.yaml", b"a: 1\n")
    subject.change("agents.d/b.yaml", b"b\n")
    subject.change("agents.d/a.yaml", b"a\n")
    subject.change("agents.dx/no.yaml", b"no\n")
    yield subject
    subject.source.close()


def head(subject: Subject) -> Revision:
    reading = subject.source.head()
    assert isinstance(reading, Ok), reading
    return reading.value


def snapshot(subject: Subject) -> Snapshot:
    reading = subject.source.snapshot(head(subject).id)
    assert isinstance(reading, Ok), reading
    return reading.value


def test_the_head_is_the_same_until_something_changes(subject: Subject) -> None:
    first = head(subject)
    assert head(subject) == first
    subject.change("hub.yaml", b"a: 2\n")
    assert head(subject).id != first.id


def test_a_snapshot_is_of_the_revision_that_was_asked_for(subject: Subject) -> None:
    taken = snapshot(subject)
    assert taken.revision == head(subject)
    taken.close()


def test_entries_are_what_is_at_or_below_a_folder_by_path(subject: Subject) -> None:
    taken = snapshot(subject)
    assert [e.path for e in taken.entries("agents.d")] == ["agents.d/a.yaml", "agents.d/b.yaml"]
    assert [e.path for e in taken.entries("hub.yaml")] == ["hub.yaml"]
    assert [e.path for e in taken.entries("none.d")] == []
    assert {"hub.yaml", "agents.d/a.yaml"} < {e.path for e in taken.entries("")}
    with pytest.raises(SourceError):
        taken.entries("../elsewhere")
    taken.close()


def test_what_is_asked_for_is_read_with_its_size_and_mode(subject: Subject) -> None:
    taken = snapshot(subject)
    a, b = taken.entries("agents.d")
    assert taken.read([b, a]) == {"agents.d/a.yaml": b"a\n", "agents.d/b.yaml": b"b\n"}
    assert (a.size_bytes, a.mode) == (2, "100644")
    assert taken.read([]) == {}
    taken.close()
    taken.close()


def test_equal_blobs_are_equal_bytes(subject: Subject) -> None:
    before = snapshot(subject)
    a, b = before.entries("agents.d")
    assert a.blob != b.blob
    subject.change("agents.d/b.yaml", b"a\n")
    after = snapshot(subject)
    assert {e.blob for e in after.entries("agents.d")} == {a.blob}
    before.close()
    after.close()


def test_a_snapshot_stays_what_it_was(subject: Subject) -> None:
    taken = snapshot(subject)
    subject.change("hub.yaml", b"changed\n")
    assert taken.read(taken.entries("hub.yaml")) == {"hub.yaml": b"a: 1\n"}
    taken.close()


def test_an_oversized_file_is_an_entry_that_read_refuses(subject: Subject) -> None:
    subject.change("agents.d/a.yaml", b"x" * (2**20 + 1))
    taken = snapshot(subject)
    big = taken.entries("agents.d/a.yaml")
    assert big[0].size_bytes == 2**20 + 1
    with pytest.raises(SourceError, match="more than 1048576"):
        taken.read(big)
    taken.close()


def test_a_revision_that_is_not_there_is_absent(subject: Subject) -> None:
    assert subject.source.snapshot("1" * 40) == Absent()


def test_a_later_revision_descends_from_an_earlier_one(subject: Subject) -> None:
    first = head(subject).id
    subject.change("hub.yaml", b"a: 2\n")
    second = head(subject).id
    assert subject.source.is_ancestor(first, second)
    assert subject.source.is_ancestor(second, second)
    assert not subject.source.is_ancestor("1" * 40, second)


def test_a_checkout_is_made_once_and_may_not_be_written(subject: Subject, tmp_path: Path) -> None:
    target = tmp_path / "made" / "checkout"
    for history in (True, False):
        subject.source.checkout(head(subject).id, str(target), history=history)
    assert (target / "agents.d/a.yaml").read_bytes() == b"a\n"
    assert (target / "hub.yaml").stat().st_mode & 0o222 == 0
    assert os.listdir(tmp_path / "made") == ["checkout"]


def test_there_is_no_checkout_of_what_is_not_there(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="making the checkout"):
        subject.source.checkout("1" * 40, str(tmp_path / "made"), history=False)
    assert not (tmp_path / "made").exists()


def test_a_source_that_cannot_be_read_is_unavailable_with_a_reason(subject: Subject) -> None:
    subject.break_it()
    reading = subject.source.head()
    assert isinstance(reading, Unavailable)
    assert condition_of(reading) is SourceCondition.UNAVAILABLE
    assert reading.reason.startswith("SourceUnavailable: ")


def test_what_is_watched_are_directories(subject: Subject) -> None:
    assert all(os.path.isdir(path) for path in subject.source.watch_paths())
