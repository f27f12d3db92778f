"""A source of revisions in memory: trees are written by the test, history goes straight on until it is rewritten."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import SourceError
from reconciler.ports import Entry, Revision, SetAside

_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Odd:
    """A file that is no ordinary one: a symlink by its mode, or one that claims another size than it has."""

    content: bytes = b""
    mode: str = "100644"
    size_bytes: int | None = None


class FakeSnapshot:
    """`Snapshot` of a mapping from path to content. `read_paths` lists what was ever read."""

    def __init__(
        self,
        files: Mapping[str, bytes | str | Odd],
        revision: Revision | None = None,
        aside: Sequence[SetAside] = (),
    ) -> None:
        self.revision = revision or Revision(id="r1", author="Ada <ada@example.org>")
        self.aside = aside
        self.read_paths: list[str] = []
        self.lost: set[str] = set()
        self._files = {path: _odd(content) for path, content in files.items()}

    def entries(self, folder: str) -> Sequence[Entry]:
        if ".." in folder.split("/"):
            raise SourceError(f"listing {folder}: it is not in the tree")
        return [
            _entry(path, file)
            for path, file in sorted(self._files.items())
            if not folder or path == folder or path.startswith(f"{folder}/")
        ]

    def prepare(self, folders: Sequence[str]) -> None:
        pass

    def set_aside(self, folder: str) -> Sequence[SetAside]:
        return [a for a in self.aside if not folder or a.path == folder or a.path.startswith(f"{folder}/")]

    def close(self) -> None:
        pass

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        self.read_paths.extend(e.path for e in entries)
        for entry in entries:
            if entry.path in self.lost:
                raise SourceError(f"reading {entry.path}: its object is gone")
            if entry.size_bytes > 2**20:
                raise SourceError(f"reading {entry.path}: {entry.size_bytes} bytes, more than {2**20}")
        return {e.path: self._files[e.path].content for e in entries}


class FakeSource:
    """`Source`. `commit` adds a revision on top of the last one, `rewrite` one that descends from nothing."""

    def __init__(self) -> None:
        self.snapshots: dict[str, FakeSnapshot] = {}
        self._parents: dict[str, str | None] = {}
        self._head: str | None = None
        self._failure: str | None = None
        self.faults: dict[str, str] = {}
        """Why revisions may not be followed, by id."""
        self.cannot_verify = ""
        self.refreshed = 0

    def commit(self, files: Mapping[str, bytes | str | Odd], *, author: str = "Ada <ada@example.org>") -> str:
        """A revision that holds exactly `files`; returns its id."""
        return self._add(files, author, parent=self._head)

    def rewrite(self, files: Mapping[str, bytes | str | Odd]) -> str:
        """A revision without history, as after a forced push."""
        return self._add(files, "Ada <ada@example.org>", parent=None)

    def go_to(self, revision: str) -> None:
        """The branch points to another known revision, as after a reset."""
        self._head = revision

    def fail(self, reason: str | None) -> None:
        """Nothing can be read from now on; None mends it."""
        self._failure = reason

    def head(self) -> Reading[Revision]:
        if self._failure is not None:
            return Unavailable(reason=self._failure)
        if self._head is None:
            return Absent()
        return Ok(self.snapshots[self._head].revision)

    def snapshot(self, revision: str) -> Reading[FakeSnapshot]:
        if self._failure is not None:
            return Unavailable(reason=self._failure)
        found = self.snapshots.get(revision)
        return Absent() if found is None else Ok(found)

    def is_ancestor(self, older: str, newer: str) -> bool:
        if self._failure is not None or newer not in self._parents:
            raise SourceError(f"comparing {older} with {newer}: {self._failure or 'there is no such commit'}")
        at: str | None = newer
        while at is not None and at != older:
            at = self._parents[at]
        return at == older

    def checkout(self, revision: str, target: str, *, history: bool) -> None:
        if revision not in self.snapshots:
            raise SourceError(f"making the checkout {target}: there is no commit {revision}")
        if Path(target).exists():
            return
        snapshot = self.snapshots[revision]
        for entry in snapshot.entries(""):
            at = Path(target, entry.path)
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(snapshot.read([entry])[entry.path])
            at.chmod(0o444)

    def refresh(self) -> None:
        self.refreshed += 1

    def notify(self, ring: Callable[[], None]) -> None:
        pass

    def unverified(self, since: str, revision: str) -> str | None:
        assert since != revision
        if self.cannot_verify:
            raise SourceError(self.cannot_verify)
        return self.faults.get(revision)

    def watch_paths(self) -> Sequence[str]:
        return ()

    def close(self) -> None:
        pass

    def _add(self, files: Mapping[str, bytes | str | Odd], author: str, *, parent: str | None) -> str:
        number = len(self.snapshots)
        commit = hashlib.sha1(f"{number} {sorted(files)}".encode(), usedforsecurity=False).hexdigest()
        revision = Revision(
            id=commit, author=author, subject=f"change {number}", time=_START + timedelta(minutes=number)
        )
        self.snapshots[commit] = FakeSnapshot(files, revision)
        self._parents[commit] = parent
        self._head = commit
        return commit


def _odd(content: bytes | str | Odd) -> Odd:
    if isinstance(content, Odd):
        return content
    return Odd(content.encode() if isinstance(content, str) else content)


def _entry(path: str, file: Odd) -> Entry:
    blob = hashlib.sha1(file.content, usedforsecurity=False).hexdigest()
    size_bytes = len(file.content) if file.size_bytes is None else file.size_bytes
    return Entry(path=path, blob=blob, size_bytes=size_bytes, mode=file.mode)
