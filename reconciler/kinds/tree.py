"""Reading the files of one kind out of a snapshot, each content parsed once in the life of the process.

A snapshot and a cache come in; parsed values and problems go out. Symlinks and oversized files become problems and
are never opened.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from reconciler.core.problem import Problem
from reconciler.core.yaml import MAX_BYTES
from reconciler.ports import Entry, Snapshot

T = TypeVar("T")

SYMLINK_MODE = "120000"


class ParseCache:
    """Results by (parser key, path, blob id). `settle` forgets what the last revision did not use."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str, str], Any] = {}
        self._used: set[tuple[str, str, str]] = set()

    def get(self, key: tuple[str, str, str]) -> Any | None:
        self._used.add(key)
        return self._results.get(key)

    def put(self, key: tuple[str, str, str], value: object) -> None:
        self._results[key] = value

    def settle(self) -> None:
        """Keep only what was asked for since the last call."""
        self._results = {k: v for k, v in self._results.items() if k in self._used}
        self._used = set()


@dataclass(frozen=True, slots=True)
class Tree:
    """One snapshot with the cache that outlives it."""

    snapshot: Snapshot
    cache: ParseCache

    def parse(
        self,
        folder: str,
        suffix: str,
        key: str,
        parser: Callable[[str, bytes], T],
        *,
        max_bytes: int = MAX_BYTES,
    ) -> tuple[dict[str, T], list[Problem]]:
        """Parse every file directly in `folder` whose name ends in `suffix`; results by path, in path order.

        `key` names the parser and everything its result depends on besides path and content.
        Raises SourceError when the snapshot cannot be read.
        """
        entries, problems = self._entries(folder, suffix, max_bytes)
        found: dict[str, Any] = {e.path: self.cache.get((key, e.path, e.blob)) for e in entries}
        missing = [e for e in entries if found[e.path] is None]
        contents = self.snapshot.read(missing) if missing else {}
        for entry in missing:
            found[entry.path] = parser(entry.path, contents[entry.path])
            self.cache.put((key, entry.path, entry.blob), found[entry.path])
        return found, problems

    def file(self, path: str) -> bytes | Problem | None:
        """The content of one file, a problem with it, or None where there is none. Raises SourceError."""
        for entry in self.snapshot.entries(path):
            if entry.path == path:
                return _unreadable(entry, MAX_BYTES) or self.snapshot.read([entry])[path]
        return None

    def _entries(self, folder: str, suffix: str, max_bytes: int) -> tuple[Sequence[Entry], list[Problem]]:
        prefix = f"{folder}/"
        inside = [
            e
            for e in self.snapshot.entries(folder)
            if e.path.startswith(prefix) and "/" not in e.path[len(prefix) :] and e.path.endswith(suffix)
        ]
        problems = [p for e in inside if (p := _unreadable(e, max_bytes))]
        problems += [
            Problem(file=aside.path, message=f"cannot be used: {aside.reason}; rename or remove it")
            for aside in self.snapshot.set_aside(folder)
        ]
        if not inside:
            problems += self._in_the_way(folder)
        bad = {p.file for p in problems}
        return [e for e in inside if e.path not in bad], problems

    def _in_the_way(self, folder: str) -> Iterator[Problem]:
        """What stands where a folder, or one above it, is looked for; nothing where there is nothing at all."""
        parts = folder.split("/")
        for place in ("/".join(parts[: count + 1]) for count in range(len(parts))):
            if any(aside.path == place != folder for aside in self.snapshot.set_aside(place)):
                yield Problem(file=place, message="is a submodule, which is not read; commit the files themselves")
            for entry in self.snapshot.entries(place):
                if entry.path == place:
                    what = "a symbolic link, which is not followed" if entry.mode == SYMLINK_MODE else "a file"
                    yield Problem(file=place, message=f"is {what}; {folder} is to be a folder; rename or remove it")


def _unreadable(entry: Entry, max_bytes: int) -> Problem | None:
    if entry.mode == SYMLINK_MODE:
        return Problem(file=entry.path, message="is a symbolic link; commit the file itself")
    if entry.size_bytes > max_bytes:
        return Problem(file=entry.path, message=f"has {entry.size_bytes} bytes; at most {max_bytes} are read; split it")
    return None
