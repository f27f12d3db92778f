"""Artefacts: what a task left in its output directory, read without following anything out of it.

Only regular files whose path, relative to the directory, matches a pattern are taken. Symbolic
links, devices and pipes are left out and named, since what they point to was not made by the task.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

_MAX_ENTRIES = 10_000
_MAX_ARTEFACTS = 100
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ArtefactsTooLargeError(Exception):
    """The artefacts together are more or larger than the task may deliver."""


@dataclass(frozen=True)
class Artefact:
    """`name` is the path relative to the output directory, with `/` between its parts."""

    name: str
    content: bytes

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "size": len(self.content),
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "content_base64": base64.b64encode(self.content).decode("ascii"),
        }


@dataclass(frozen=True)
class Collection:
    """What was taken, by name, and the names that matched but were no regular files."""

    artefacts: tuple[Artefact, ...] = ()
    left_out: tuple[str, ...] = ()


def collect_artefacts(directory: str, patterns: Sequence[str], max_bytes: int) -> Collection:
    """Read the matching files below `directory`. Raises ArtefactsTooLargeError and OSError."""
    if not patterns:
        return Collection()
    taken: list[Artefact] = []
    left_out: list[str] = []
    left_bytes = max_bytes
    for name, base, parent_fd in _walk(directory):
        if not any(fnmatchcase(name, p) for p in patterns):
            continue
        content = _read_regular(base, parent_fd, left_bytes)
        if content is None:
            left_out.append(name)
            continue
        if len(content) > left_bytes:
            raise ArtefactsTooLargeError(f"the artefacts are larger than {max_bytes} bytes")
        left_bytes -= len(content)
        taken.append(Artefact(name=name, content=content))
        if len(taken) > _MAX_ARTEFACTS:
            raise ArtefactsTooLargeError(f"there are more than {_MAX_ARTEFACTS} artefacts")
    taken.sort(key=lambda a: a.name)
    return Collection(artefacts=tuple(taken), left_out=tuple(sorted(left_out)))


def _walk(directory: str) -> Iterator[tuple[str, str, int]]:
    """Relative path, last part and open parent directory of each entry that is no directory."""
    seen = 0
    for root, folders, files, fd in os.fwalk(directory, follow_symlinks=False):
        prefix = os.path.relpath(root, directory)
        for base in (*files, *(f for f in folders if _is_link(f, fd))):
            seen += 1
            if seen > _MAX_ENTRIES:
                raise ArtefactsTooLargeError(f"the output directory has more than {_MAX_ENTRIES} files")
            yield (base if prefix == "." else f"{prefix}/{base}"), base, fd


def _is_link(base: str, parent_fd: int) -> bool:
    return stat.S_ISLNK(os.stat(base, dir_fd=parent_fd, follow_symlinks=False).st_mode)


def _read_regular(base: str, parent_fd: int, max_bytes: int) -> bytes | None:
    """At most one byte more than `max_bytes`; None for what is not a regular file."""
    try:
        fd = os.open(base, _OPEN_FLAGS, dir_fd=parent_fd)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return file.read(max_bytes + 1)
