"""Folders that other people write into: opened without following a link, written to atomically.

File descriptors of directories come in and go out, so that a folder swapped for a link meanwhile
changes nothing. Functions raise OSError; the caller knows what it was doing.
"""

import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTIAL_SUFFIX = ".partial"


@contextmanager
def open_below(root: str, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """The folder `parts` below the trusted directory `root`; no part may be a link.

    `make` makes what is missing.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if make:
                make_folder(fd, part)
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_folder(parent_fd: int, name: str) -> Iterator[int]:
    """A folder that is no link."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_own(parent_fd: int, name: str) -> Iterator[int]:
    """A folder that we, root, or the owner of the folder above made; made if it is missing."""
    make_folder(parent_fd, name)
    with open_folder(parent_fd, name) as fd:
        owner = os.fstat(fd).st_uid
        if owner not in (0, os.geteuid(), os.fstat(parent_fd).st_uid):
            raise PermissionError(f"the folder {name!r} belongs to uid {owner}; remove it")
        yield fd


def make_folder(parent_fd: int, name: str) -> None:
    """Already there is fine."""
    try:
        os.mkdir(name, 0o755, dir_fd=parent_fd)
    except FileExistsError:
        return


def status_of(folder_fd: int, name: str) -> os.stat_result | None:
    """Of the name itself, link or not; None where there is none."""
    try:
        return os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def write_whole(folder_fd: int, name: str, content: bytes, *, like: os.stat_result | None) -> None:
    """Atomically, in place of an earlier file; on the disk when it returns.

    It may be read by those who may read the file `like`, and belongs to its owner as far as we can
    give it away; where `like` is None it is ours alone.
    """
    partial = f".{name}.{uuid.uuid4().hex[:8]}{_PARTIAL_SUFFIX}"
    fd = os.open(partial, _NEW_FILE, 0o600, dir_fd=folder_fd)
    try:
        write_all(fd, content)
        if like is not None:
            readers = like.st_mode & 0o044 if stat.S_ISREG(like.st_mode) else 0o044
            os.fchmod(fd, 0o600 | readers)
        if like is not None and os.geteuid() == 0:
            os.fchown(fd, like.st_uid, like.st_gid)
        os.fsync(fd)
        os.rename(partial, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        os.unlink(partial, dir_fd=folder_fd)
        raise
    finally:
        os.close(fd)


def write_all(fd: int, content: bytes) -> None:
    """Write all of it to a file descriptor."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def remove_partial(folder_fd: int) -> None:
    """Remove what a killed `write_whole` left."""
    for name in os.listdir(folder_fd):
        if name.startswith(".") and name.endswith(_PARTIAL_SUFFIX):
            os.unlink(name, dir_fd=folder_fd)
