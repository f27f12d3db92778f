"""What every provider of secrets keeps to, the fake included."""

from abc import abstractmethod
from pathlib import Path
from typing import Protocol

import pytest

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.core.secret import MAX_SECRET_BYTES, SecretValue
from reconciler.identity.secrets import CommandSecrets, EnvSecrets, FileSecrets
from reconciler.ports import SecretProvider
from tests.fakes.secrets import FakeSecrets


class Subject(Protocol):
    """A provider, and how to change what it has."""

    @abstractmethod
    def provider(self) -> SecretProvider:
        """The provider as a hub that starts now has it."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """From now on this secret has this value."""

    @abstractmethod
    def take(self, name: str) -> None:
        """From now on there is no such secret."""


class FakeSubject(Subject):
    def __init__(self) -> None:
        self.fake = FakeSecrets()

    def provider(self) -> SecretProvider:
        return self.fake

    def put(self, name: str, content: bytes) -> None:
        self.fake.values[name] = content

    def take(self, name: str) -> None:
        del self.fake.values[name]


class FileSubject(Subject):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def provider(self) -> SecretProvider:
        return FileSecrets(self.folder)

    def put(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def take(self, name: str) -> None:
        (self.folder / name).unlink()


class CommandSubject(FileSubject):
    def provider(self) -> SecretProvider:
        program = self.folder / ".print"
        program.write_text(f"#!/bin/sh\n[ ! -e {self.folder}/$1 ] || cat {self.folder}/$1\n")
        program.chmod(0o700)
        return CommandSecrets(str(program), timeout_s=20)


class EnvSubject(Subject):
    def __init__(self) -> None:
        self.environ = {"HOME": "/root"}

    def provider(self) -> SecretProvider:
        return EnvSecrets(dict(self.environ), "MY_")

    def put(self, name: str, content: bytes) -> None:
        self.environ[f"MY_{name.upper().replace('-', '_')}"] = content.decode("utf-8", "surrogateescape")

    def take(self, name: str) -> None:
        del self.environ[f"MY_{name.upper().replace('-', '_')}"]


@pytest.fixture(params=["fake", "file", "command", "env"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    subjects: dict[str, Subject] = {
        "fake": FakeSubject(),
        "file": FileSubject(tmp_path),
        "command": CommandSubject(tmp_path),
        "env": EnvSubject(),
    }
    return subjects[request.param]


@pytest.mark.parametrize("content", [b"x", b"two\nlines\n", b" \xff\xfe\n", b"y" * MAX_SECRET_BYTES])
def test_a_value_comes_out_as_it_was_put_in(subject: Subject, content: bytes) -> None:
    subject.put("deploy-key", content)
    assert subject.provider().read("deploy-key") == Ok(SecretValue(content))


def test_another_value_is_seen(subject: Subject) -> None:
    for content in (b"first", b"second"):
        subject.put("deploy-key", content)
        assert subject.provider().read("deploy-key") == Ok(SecretValue(content))


def test_what_is_not_there_or_empty_is_absent(subject: Subject) -> None:
    assert subject.provider().read("deploy-key") == Absent()
    subject.put("deploy-key", b"")
    assert subject.provider().read("deploy-key") == Absent()
    subject.put("deploy-key", b"x")
    subject.take("deploy-key")
    assert subject.provider().read("deploy-key") == Absent()


def test_each_name_is_a_secret_of_its_own(subject: Subject) -> None:
    subject.put("deploy-key", b"one")
    subject.put("deploy", b"two")
    provider = subject.provider()
    assert [provider.read(n) for n in ("deploy", "deploy-key", "key")] == [
        Ok(SecretValue(b"two")),
        Ok(SecretValue(b"one")),
        Absent(),
    ]


def test_one_that_is_too_large_is_no_value(subject: Subject) -> None:
    subject.put("deploy-key", b"y" * (MAX_SECRET_BYTES + 1))
    assert isinstance(subject.provider().read("deploy-key"), Unavailable)


def test_what_was_read_never_shows_itself(subject: Subject) -> None:
    subject.put("deploy-key", b"hunter2")
    reading = subject.provider().read("deploy-key")
    assert isinstance(reading, Ok)
    assert "hunter2" not in f"{reading} {reading!r} {reading.value} {reading.value!r}"
