"""`Subdirectory`: a fleet that is only one directory of a repository.

Everything of the inner source stays as it is, but snapshots: their paths are those below the directory. A checkout,
which agents work in, is of the whole repository.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from reconciler.core.reading import Ok, Reading
from reconciler.ports import Entry, Revision, SetAside, Snapshot, Source
from reconciler.source.unavailable import unavailable

_MARK = "hub.yaml"


class Subdirectory:
    """A `Source`. `path` is relative, without a trailing slash."""

    def __init__(self, inner: Source, path: str) -> None:
        self._inner, self._path = inner, path

    def head(self) -> Reading[Revision]:
        return self._inner.head()

    def snapshot(self, revision: str) -> Reading[Snapshot]:
        """`Unavailable` where the directory is not in that revision: it may have moved, which is no empty fleet."""
        found = self._inner.snapshot(revision)
        if not isinstance(found, Ok):
            return found
        if not found.value.entries(f"{self._path}/{_MARK}"):
            found.value.close()
            return unavailable(
                f"there is no {self._path}/{_MARK} at {revision[:12]}; source.path says where the fleet is"
            )
        return Ok(_Below(found.value, f"{self._path}/"))

    def is_ancestor(self, older: str, newer: str) -> bool:
        return self._inner.is_ancestor(older, newer)

    def unverified(self, since: str, revision: str) -> str | None:
        return self._inner.unverified(since, revision)

    def refresh(self) -> None:
        self._inner.refresh()

    def notify(self, ring: Callable[[], None]) -> None:
        self._inner.notify(ring)

    def checkout(self, revision: str, target: str, *, history: bool) -> None:
        self._inner.checkout(revision, target, history=history)

    def watch_paths(self) -> Sequence[str]:
        return self._inner.watch_paths()

    def close(self) -> None:
        self._inner.close()


class _Below:
    """A snapshot of what is below `prefix`, which ends with a slash."""

    def __init__(self, inner: Snapshot, prefix: str) -> None:
        self._inner, self._prefix = inner, prefix

    @property
    def revision(self) -> Revision:
        return self._inner.revision

    def entries(self, folder: str) -> Sequence[Entry]:
        found = self._inner.entries(self._place(folder))
        return [replace(e, path=e.path.removeprefix(self._prefix)) for e in found]

    def prepare(self, folders: Sequence[str]) -> None:
        self._inner.prepare([self._place(f) for f in folders])

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        found = self._inner.read([replace(e, path=self._prefix + e.path) for e in entries])
        return {path.removeprefix(self._prefix): content for path, content in found.items()}

    def set_aside(self, folder: str) -> Sequence[SetAside]:
        found = self._inner.set_aside(self._place(folder))
        return [replace(a, path=a.path.removeprefix(self._prefix)) for a in found]

    def close(self) -> None:
        self._inner.close()

    def _place(self, folder: str) -> str:
        return (self._prefix + folder).rstrip("/")
