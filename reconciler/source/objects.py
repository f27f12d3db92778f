"""Reading the objects of a repository: from their own files where git keeps them so, else from git.

Git writes new objects into a file each, so that a new commit is mostly read without a process. What
is packed, borrowed from another repository, large or damaged is asked of one `git cat-file`, which
has it or says what is wrong.
"""

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Sequence

from reconciler.source.git import CatFile, ObjectView, object_format_of

MAX_BYTES = 2**20

_OBJECT_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_HEADER = re.compile(rb"(?P<kind>[a-z]{3,6}) (?P<size>[0-9]{1,18})\0")
_MAX_HEADER_BYTES = 32
# zlib makes what it cannot compress a little longer.
_SLACK_BYTES = 4096


class ObjectReader:
    """Objects by id; for one thread at a time. A process is started when first needed, and ended by `close`.

    All methods raise SourceError: an object that is missing, of another type, corrupt, or a process
    that is gone. Contents are checked against their ids, so that equal ids really mean equal bytes.
    """

    def __init__(self, view: ObjectView) -> None:
        self._view = view
        self._cat_file: CatFile | None = None

    def read(self, object_ids: Sequence[str], *, kind: str = "blob", max_bytes: int = MAX_BYTES) -> dict[str, bytes]:
        """Contents by id, in the order asked.

        An object of more than `max_bytes` is refused before it is read.
        """
        where = self._view.objects_dir
        loose = {i: content for i in object_ids if (content := read_loose(where, i, kind, max_bytes)) is not None}
        others = [i for i in object_ids if i not in loose]
        if not others:
            return loose
        found = self._git().read(others, kind=kind, max_bytes=max_bytes) | loose
        return {i: found[i] for i in object_ids}

    def sizes(self, object_ids: Sequence[str]) -> dict[str, int]:
        """Bytes of blobs by id; no content is read."""
        where = self._view.objects_dir
        loose = {i: size for i in object_ids if (size := size_of_loose(where, i)) is not None}
        others = [i for i in object_ids if i not in loose]
        return loose | self._git().sizes(others) if others else loose

    def find(self, object_id: str, kind: str) -> bytes | None:
        """The content of one object, or None where there is none. Nothing is read afterwards."""
        content = read_loose(self._view.objects_dir, object_id, kind, MAX_BYTES)
        return self._git().find(object_id, kind) if content is None else content

    def copy(self, object_id: str, fd: int) -> None:
        """Write one blob, of whatever size, to a file descriptor.

        Raises OSError where that can't be written to.
        """
        self._git().copy(object_id, fd)

    def close(self) -> None:
        """End the process, if one was started. Calling it again is fine, and so is reading again."""
        if self._cat_file is not None:
            self._cat_file.close()
            self._cat_file = None

    def _git(self) -> CatFile:
        if self._cat_file is None:
            self._cat_file = self._view.cat_file()
        return self._cat_file


def read_loose(objects_dir: str, object_id: str, kind: str, max_bytes: int) -> bytes | None:
    """The content of an object that has a file of its own, checked against its id; None where git has to be asked."""
    text = _inflate(_read_file(objects_dir, object_id, max_bytes + _SLACK_BYTES), _MAX_HEADER_BYTES + max_bytes)
    header = _HEADER.match(text)
    if header is None or header["kind"] != kind.encode() or int(header["size"]) != len(text) - header.end():
        return None
    check = hashlib.new(object_format_of(object_id), text, usedforsecurity=False)
    return text[header.end() :] if check.hexdigest() == object_id else None


def size_of_loose(objects_dir: str, object_id: str) -> int | None:
    """The bytes of a blob that has a file of its own, as that says; None where git has to be asked."""
    header = _HEADER.match(_inflate(_read_file(objects_dir, object_id, _SLACK_BYTES), _MAX_HEADER_BYTES))
    return int(header["size"]) if header is not None and header["kind"] == b"blob" else None


def _read_file(objects_dir: str, object_id: str, at_most: int) -> bytes:
    """The beginning of the object's file; nothing where there is no such file."""
    if not _OBJECT_ID.fullmatch(object_id):
        return b""
    try:
        path = os.path.join(objects_dir, object_id[:2], object_id[2:])
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        return os.read(fd, min(status.st_size, at_most)) if stat.S_ISREG(status.st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _inflate(deflated: bytes, at_most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(deflated, at_most)
    except zlib.error:
        return b""
