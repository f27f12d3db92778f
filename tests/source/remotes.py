"""Remote repositories of a test: a bare one that people push to, and mirrors of it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.origin import parse_origin
from reconciler.core.reading import Ok
from reconciler.core.ref import parse_ref
from reconciler.ports import Revision
from reconciler.settings_source import Credentials
from reconciler.source.mirror import Mirror
from reconciler.source.remote import RemoteRepository
from reconciler.source.transfer import Remote
from tests.source.repo import Repo, make_repo

NEVER_S = 3600.0


class Shared:
    """A bare repository, and somebody's clone of it. `push` makes a commit there."""

    def __init__(self, folder: Path) -> None:
        self.bare = Repo(folder / "shared.git", "init", "--quiet", "--bare", "--initial-branch=main")
        self.work = make_repo(folder / "work", {"hub.yaml": "a: 1\n"})
        self.work.git("remote", "add", "origin", str(self.bare.path))
        self.push({})

    @property
    def url(self) -> str:
        return f"file://{self.bare.path}"

    def push(self, files: dict[str, str], *, message: str = "Change") -> str:
        commit = self.work.commit(dict(files), message) if files else self.work.git("rev-parse", "HEAD")
        self.work.git("push", "--quiet", "--force", "--tags", "origin", "HEAD:main")
        return commit


def mirror_of(folder: Path, url: str, ref: str = "main", **more: int) -> Mirror:
    """In `folder/mirror`. `more`: `depth`, `max_packs`, and `max_bytes` of the remote."""
    remote = Remote(origin=parse_origin(url), credentials=Credentials(), max_bytes=more.get("max_bytes", 2**30))
    return Mirror(
        path=str(folder / "mirror"),
        remote=remote,
        ref=parse_ref(ref),
        depth=more.get("depth"),
        max_packs=more.get("max_packs", 25),
    )


def follow(mirror: Mirror) -> RemoteRepository:
    """Asks once, and then only when told to."""
    return RemoteRepository(mirror, NEVER_S, gap_s=0.01)


def head_of(source: RemoteRepository) -> Revision:
    reading = source.head()
    assert isinstance(reading, Ok), reading
    return reading.value


def await_that(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s")
        time.sleep(0.02)


def await_head(source: RemoteRepository, commit: str) -> None:
    """Tell it to look, until it follows that commit."""

    def is_there() -> bool:
        source.refresh()
        reading = source.head()
        return isinstance(reading, Ok) and reading.value.id == commit

    await_that(is_there)
