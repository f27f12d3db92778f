"""Reading one dropped file safely.

An open directory and a name come in; what the file is, or why it can't be taken, goes out. Nothing
is waited for: a FIFO, a device or a link is recognised before it is opened, and what is opened is a
regular file or is given back.
"""

import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from reconciler.source.folder import status_of
from reconciler.source.tree import show_path

SUFFIX = ".yaml"
_YAML = re.compile(r"\.ya?ml\Z", re.IGNORECASE)
_MAX_NAME_BYTES = 200
_CHUNK_BYTES = 2**18
# What opening says of a name that was removed, or replaced by a link or a socket, just now.
_REPLACED = (errno.ENOENT, errno.ELOOP, errno.ENXIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Which file it is, and in which state. Equal ones some time apart: nobody wrote meanwhile."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    def __str__(self) -> str:
        return f"{self.device}:{self.inode}:{self.size_bytes}:{self.mtime_ns}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A dropped file that was read whole.

    `digest` is the SHA-256 of `content` in hex, `uid` the file's owner. (`name`, `digest`,
    `signature`) is the same when the same file is found again, and new when it was dropped anew.
    """

    name: str
    content: bytes = field(repr=False)
    digest: str
    uid: int
    signature: Signature

    @property
    def file_name(self) -> str:
        return self.name

    @property
    def stem(self) -> str:
        """The name without `.yaml`."""
        return self.name.removesuffix(SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Something named `*.yaml`, or nearly so, that can never become a task.

    `name` is printable, `file_name` the real one.
    """

    name: str
    file_name: str = field(repr=False)
    reason: str
    uid: int

    @property
    def digest(self) -> str:
        """Of the name, because the content was not read."""
        return hashlib.sha256(os.fsencode(self.file_name)).hexdigest()

    @property
    def stem(self) -> str:
        """The name without its ending, cut, and with nothing in it that a file of ours can't have."""
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", _YAML.sub("", self.file_name))
        return stem[:100]


class NotNow(Enum):
    """Why there is nothing to take, and no reason to refuse."""

    GONE = "gone"
    BEING_WRITTEN = "being written"


def is_meant(file_name: str) -> bool:
    """Whether somebody means a file to be taken: not what begins with a dot, and not a draft such as `x.yaml.tmp`."""
    return not file_name.startswith(".") and _YAML.search(file_name) is not None


def sign(status: os.stat_result) -> Signature:
    return Signature(
        device=status.st_dev,
        inode=status.st_ino,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def read_dropped(
    directory_fd: int, file_name: str, *, max_bytes: int, mind_writers: bool = True
) -> Candidate | Refused | NotNow:
    """Read the file once.

    `mind_writers` False takes it even while somebody has it open for writing. Raises OSError only
    where the directory itself fails.
    """
    status = status_of(directory_fd, file_name)
    if status is None:
        return NotNow.GONE
    # Not opened before it is known to be a regular file: opening some devices does something.
    if reason := _why_not(file_name, status, max_bytes):
        return _refuse(file_name, status, reason)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(file_name, flags, dir_fd=directory_fd)
    except PermissionError:
        return _refuse(file_name, status, "the hub may not read it; give it read permission")
    except OSError as exc:
        if exc.errno in _REPLACED:
            return NotNow.GONE
        raise
    try:
        return _read_open(fd, file_name, max_bytes, mind_writers)
    finally:
        os.close(fd)


def _read_open(fd: int, file_name: str, max_bytes: int, mind_writers: bool) -> Candidate | Refused | NotNow:
    with _no_writer(fd) as has_writer:
        if has_writer and mind_writers:
            return NotNow.BEING_WRITTEN
        before = os.fstat(fd)
        if reason := _why_not(file_name, before, max_bytes):
            return _refuse(file_name, before, reason)
        content = _read_at_most(fd, max_bytes + 1)
        after = os.fstat(fd)
    if sign(before) != sign(after) or len(content) != after.st_size:
        return NotNow.BEING_WRITTEN
    return Candidate(
        name=file_name,
        content=content,
        digest=hashlib.sha256(content).hexdigest(),
        uid=after.st_uid,
        signature=sign(after),
    )


def _read_at_most(fd: int, size_bytes: int) -> bytes:
    content = bytearray()
    while len(content) < size_bytes and (chunk := os.read(fd, min(_CHUNK_BYTES, size_bytes - len(content)))):
        content += chunk
    return bytes(content)


@contextmanager
def _no_writer(fd: int) -> Iterator[bool]:
    """Whether somebody has the file open for writing; if not, nobody gets to until the block ends.

    A read lease tells, where the file is ours or we are root; elsewhere the answer is no. Its
    signal is set to one that is ignored by default: a writer who comes meanwhile waits in `open`
    until the lease is given back.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as exc:
        yield exc.errno == errno.EAGAIN
        return
    try:
        yield False
    finally:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


# --- refusals -------------------------------------------------------------------------------------


def _why_not(file_name: str, status: os.stat_result, max_bytes: int) -> str | None:
    if reason := _why_not_name(file_name):
        return reason
    if not stat.S_ISREG(status.st_mode):
        return f"it is a {_kind_of(status.st_mode)}; drop a regular file"
    if status.st_size > max_bytes:
        return f"it has {status.st_size} bytes; at most {max_bytes} are taken; drop a smaller one"
    if status.st_nlink > 1:
        # The owner of the file stands for the one who dropped it; with a second name that is
        # anybody's guess.
        return "it has a second name (a hard link); drop a copy"
    return None


def _why_not_name(file_name: str) -> str | None:
    raw = os.fsencode(file_name)
    if len(raw) > _MAX_NAME_BYTES:
        return f"its name has {len(raw)} bytes; use at most {_MAX_NAME_BYTES}"
    try:
        printable = raw.decode().isprintable()
    except UnicodeDecodeError:
        return "its name is not UTF-8; rename it"
    if not printable:
        return "its name has characters that don't print; rename it"
    return (
        None if file_name.endswith(SUFFIX) else f"its name does not end in {SUFFIX}; drop it again under one that does"
    )


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "symbolic link",
        stat.S_IFDIR: "directory",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def _refuse(file_name: str, status: os.stat_result, reason: str) -> Refused:
    return Refused(name=show_name(file_name), file_name=file_name, reason=reason, uid=status.st_uid)


def show_name(file_name: str) -> str:
    """For people: what isn't UTF-8 or doesn't print is escaped, and a long name is cut."""
    return show_path(os.fsencode(file_name))[:_MAX_NAME_BYTES]
