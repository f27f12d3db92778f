"""Read-only directories, built aside and renamed into place.

The name of a directory that isn't there comes in; afterwards it is there, whole, or not at all: a
killed process leaves only a sibling `.<name>.partial-*`, which the next call removes. Nothing in it
has a write bit. Everybody on the host may read it as far as the directories above allow. The
content is on the disk before the name is, so that a power cut doesn't leave empty files behind a
good name.

Symbolic links that stay inside are kept; each other one becomes a text file that names the target.
"""

import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reconciler.crashpoint import point
from reconciler.errors import SourceError
from reconciler.source.folder import write_all
from reconciler.source.tree import is_inside, is_safe_path, show_path

_PARTIAL = ".partial-"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def reading_environment() -> dict[str, str]:
    """What a process needs in its environment to use git in a checkout that another uid owns.

    git (2.38 and later) takes `safe.directory` from here; for an older git it must stand in
    `/etc/gitconfig`.
    """
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_OPTIONAL_LOCKS": "0",
    }


class TreeWriter:
    """Fills one new directory.

    Methods raise SourceError for a path that must not be made, and OSError.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._made = {b""}
        self._links: list[tuple[bytes, bytes]] = []

    def add_file(self, path: bytes, copy: Callable[[int], None], *, executable: bool = False) -> None:
        """Make the file and let `copy` write its content to the descriptor."""
        fd = os.open(self._prepare(path), _NEW_FILE, 0o600)
        try:
            copy(fd)
            os.fchmod(fd, 0o555 if executable else 0o444)
        finally:
            os.close(fd)

    def add_link(self, path: bytes, target: bytes) -> None:
        """Links are made by `finish`, so that nothing is ever written through one."""
        if is_inside(path, target):
            self._prepare(path)
            self._links.append((path, target))
            return
        note = b"symbolic link to " + target + b"\nnot made, because it may lead out of the tree\n"
        self.add_file(path, lambda fd: write_all(fd, note))

    def add_directory(self, path: bytes) -> None:
        self._check(path)
        self._make_directories(path)

    def finish(self) -> None:
        """Make the links."""
        for path, target in self._links:
            os.symlink(target, os.path.join(os.fsencode(self.root), path))

    def _prepare(self, path: bytes) -> bytes:
        self._check(path)
        self._make_directories(os.path.dirname(path))
        return os.path.join(os.fsencode(self.root), path)

    def _check(self, path: bytes) -> None:
        if not is_safe_path(path):
            raise SourceError(f"checking out: {show_path(path)!r} leaves the tree or is .git")

    def _make_directories(self, path: bytes) -> None:
        if path in self._made:
            return
        self._make_directories(os.path.dirname(path))
        os.mkdir(os.path.join(os.fsencode(self.root), path), 0o755)
        self._made.add(path)


@contextmanager
def build_directory(target: str) -> Iterator[str]:
    """The path of a new directory to fill; it is at `target` when the block ends well.

    The caller has made sure that nobody else builds the same target now. Raises SourceError.
    """
    parent, name = os.path.split(os.path.abspath(target))
    partial = os.path.join(parent, f".{name}{_PARTIAL}{uuid.uuid4().hex}")
    try:
        os.makedirs(parent, exist_ok=True)
        _remove_partial(parent, name)
        os.mkdir(partial, 0o700)
        yield partial
        _seal(partial)
        _sync(parent)
        point("checkout.rename.before")
        os.rename(partial, target)
        point("checkout.rename.after")
    except OSError as exc:
        raise SourceError(f"making the checkout {target}") from exc
    finally:
        if os.path.lexists(partial):
            remove_checkout(partial)


def remove_checkout(path: str) -> None:
    """Remove a checkout, write bits or not; absent is fine. Raises SourceError."""
    try:
        for directory, _, _ in os.walk(path):
            os.chmod(directory, 0o700)
        if os.path.lexists(path):
            shutil.rmtree(path)
    except OSError as exc:
        raise SourceError(f"removing the checkout {path}") from exc


def _remove_partial(parent: str, name: str) -> None:
    for entry in os.listdir(parent):
        if entry.startswith(f".{name}{_PARTIAL}"):
            remove_checkout(os.path.join(parent, entry))


def _seal(root: str) -> None:
    """Take away all write bits.

    Files that already are as they shall be are left alone: git's index knows them.
    """
    for directory, _, files, fd in os.fwalk(root, topdown=False):
        for name in files:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            mode = 0o555 if status.st_mode & 0o100 else 0o444
            if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) != mode:
                os.chmod(name, mode, dir_fd=fd)
        os.chmod(directory, 0o555)  # noqa: S103 - readable is what it is for


def _sync(directory: str) -> None:
    """Have the file system of `directory` on the disk.

    One call for thousands of files, where `fsync` is one each.
    """
    import ctypes

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed", directory)
    finally:
        os.close(fd)
