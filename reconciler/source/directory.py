"""`DirectorySource`: desired state from a plain directory, for trying things out.

The manifest folders are read into memory by `head`, so that a snapshot doesn't change while it is
used. A revision is `worktree:<digest>` over their paths, modes and contents, and is marked as not
audited. Nothing is written but checkouts.

Names that begin with a dot are left out, and links are never followed: they appear as entries of
mode 120000.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.reading import Absent, Ok, Reading
from reconciler.errors import SourceError
from reconciler.ports import Entry, Revision, SetAside
from reconciler.source.checkout import TreeWriter, build_directory
from reconciler.source.folder import open_below, open_folder, status_of, write_all
from reconciler.source.git import start_object_hash
from reconciler.source.snapshot import MAX_FILE_BYTES, is_within, oversized
from reconciler.source.tree import EXECUTABLE, SYMLINK, check_folder, why_unusable
from reconciler.source.unavailable import from_error, unavailable

MANIFEST_PATHS = ("hub.yaml", "agents.d", "policies", "schemas", "tasks.d")
_REGULAR = "100644"
_LEFT_OUT_OF_CHECKOUTS = frozenset({".git", ".reconciler", ".venv", "node_modules", "__pycache__"})
_MAX_FILES = 20_000
_MAX_TOTAL_BYTES = 2**28
_MAX_CHECKOUT_BYTES = 2**31
_CHUNK_BYTES = 2**18
# A file changed more recently than this when it was read may change again without its times showing
# it.
_UNSURE_NS = 100_000_000
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What was read of one path.

    `signature` is None if the file was too fresh to be recognised by it.
    """

    entry: Entry
    content: bytes | None
    signature: tuple[int, ...] | None


class MemorySnapshot:
    """A tree held in memory. `content_by_path` lacks what is too large to be read."""

    def __init__(
        self,
        revision: Revision,
        entries: Sequence[Entry],
        content_by_path: Mapping[str, bytes],
        aside: Sequence[SetAside] = (),
    ) -> None:
        self._revision = revision
        self._entries = tuple(sorted(entries, key=lambda e: e.path))
        self._content_by_path = content_by_path
        self._aside = tuple(aside)

    @property
    def revision(self) -> Revision:
        return self._revision

    @property
    def max_file_bytes(self) -> int:
        """`read` refuses larger files; check `Entry.size_bytes` first and report a problem."""
        return MAX_FILE_BYTES

    def entries(self, folder: str) -> Sequence[Entry]:
        """As `GitSnapshot.entries`. Raises SourceError for a path that leaves the tree."""
        if not folder:
            return self._entries
        at = check_folder(folder)
        return tuple(e for e in self._entries if is_within(e.path, at))

    def set_aside(self, folder: str) -> Sequence[SetAside]:
        """Names unfit for records, and what is neither file, folder nor link."""
        return tuple(a for a in self._aside if is_within(a.path, folder))

    def prepare(self, folders: Sequence[str]) -> None:
        """Nothing to do: everything is in memory."""

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        """Contents by path. Raises SourceError for an oversized or unknown entry."""
        for entry in entries:
            if entry.size_bytes > MAX_FILE_BYTES:
                raise oversized(entry)
            if entry.path not in self._content_by_path:
                raise SourceError(f"reading {entry.path}: not in revision {self._revision.id}")
        return {entry.path: self._content_by_path[entry.path] for entry in entries}

    def close(self) -> None:
        """There is nothing to close."""


class DirectorySource:
    """A `Source` over a plain directory; `paths` are the folders and files that make a revision."""

    def __init__(self, path: str, paths: Sequence[str] = MANIFEST_PATHS) -> None:
        self._path = os.path.abspath(path)
        self._paths = tuple(check_folder(p) for p in paths)
        self._file_by_path: dict[str, _File] = {}
        self._latest: MemorySnapshot | None = None

    def close(self) -> None:
        """There is nothing to close."""

    def head(self) -> Reading[Revision]:
        """Read the directory. The reason of an `Unavailable` begins with the condition's name."""
        aside: list[SetAside] = []
        try:
            with open_below(self._path, ()) as root_fd:
                files = {f.entry.path: f for f in self._read_all(root_fd, aside)}
        except OSError as exc:
            return unavailable(f"{exc.filename or self._path} cannot be read: {exc.strerror}")
        except SourceError as exc:
            return from_error(exc)
        self._file_by_path = files
        revision = Revision(id=f"worktree:{_digest(files)}", subject=f"working copy of {self._path}", audited=False)
        if self._latest is None or self._latest.revision != revision:
            contents = {path: f.content for path, f in files.items() if f.content is not None}
            self._latest = MemorySnapshot(revision, [f.entry for f in files.values()], contents, aside)
        return Ok(revision)

    def snapshot(self, revision: str) -> Reading[MemorySnapshot]:
        """What the last `head` read; `Absent` for any other revision, which is gone."""
        if self._latest is None or self._latest.revision.id != revision:
            return Absent()
        return Ok(self._latest)

    def is_ancestor(self, older: str, newer: str) -> bool:
        """A directory has no history: each state of it may follow any other, and nothing else."""
        return older == newer or (older.startswith("worktree:") and newer.startswith("worktree:"))

    def checkout(self, revision: str, target: str, *, history: bool) -> None:  # noqa: ARG002 - the port's
        """Copy the directory as it is now; there is no `history` to give.

        Left out are `.git`, `.reconciler`, `.venv`, `node_modules`, `__pycache__` and special
        files. Already there is fine, even if files outside the manifest folders have changed since.
        Raises SourceError.
        """
        if self._latest is None or self._latest.revision.id != revision:
            raise SourceError(f"making the checkout {target}: {revision!a} is no longer what {self._path} holds")
        if os.path.lexists(target):
            return
        with build_directory(target) as partial:
            _copy_tree(self._path, TreeWriter(partial), os.path.dirname(partial))

    def refresh(self) -> None:
        """Nothing to do: `head` looks each time."""

    def notify(self, ring: Callable[[], None]) -> None:
        """Nothing to do: what is watched tells all."""

    def unverified(self, since: str, revision: str) -> str | None:  # noqa: ARG002 - the port's
        """Nobody signs a plain directory; `open_source` refuses it where signatures are asked for."""
        return None

    def watch_paths(self) -> Sequence[str]:
        """Directories, each to be watched by itself and not recursively."""
        found = [self._path] if os.path.isdir(self._path) else []
        for path in self._paths:
            found.extend(directory for directory, _, _ in os.walk(os.path.join(self._path, path)))
        return found

    # --- reading ----------------------------------------------------------------------------------

    def _read_all(self, root_fd: int, aside: list[SetAside]) -> Iterator[_File]:
        """Raises OSError, and SourceError where there is too much."""
        files = total_bytes = 0
        for path in self._paths:
            for file in self._read_configured(root_fd, path, "", aside):
                files, total_bytes = files + 1, total_bytes + len(file.content or b"")
                if files > _MAX_FILES or total_bytes > _MAX_TOTAL_BYTES:
                    limits = f"{_MAX_FILES} files or {_MAX_TOTAL_BYTES} bytes"
                    raise SourceError(f"reading {self._path}: more than {limits}")
                yield file

    def _read_configured(self, parent_fd: int, path: str, above: str, aside: list[SetAside]) -> Iterator[_File]:
        """Descend to a configured path without following a link on the way."""
        name, _, rest = path.partition("/")
        at = f"{above}{name}"
        status = status_of(parent_fd, name)
        if not rest or status is None or not stat.S_ISDIR(status.st_mode):
            yield from self._read_at(parent_fd, name, at, aside)
            return
        with open_folder(parent_fd, name) as fd:
            yield from self._read_configured(fd, rest, f"{at}/", aside)

    def _read_at(self, parent_fd: int, name: str, path: str, aside: list[SetAside]) -> Iterator[_File]:
        """What is at `name` of an open directory: nothing, a file, a link, or all that is below a
        folder.
        """
        status = status_of(parent_fd, name)
        if status is None:
            return
        if reason := why_unusable(os.fsencode(path)):
            aside.append(SetAside(path=ascii(path)[1:-1], reason=reason))
        elif stat.S_ISDIR(status.st_mode):
            with open_folder(parent_fd, name) as fd:
                for child in sorted(c for c in os.listdir(fd) if not c.startswith(".")):
                    yield from self._read_at(fd, child, f"{path}/{child}", aside)
        elif stat.S_ISLNK(status.st_mode):
            yield _link(path, os.fsencode(os.readlink(name, dir_fd=parent_fd)))
        elif stat.S_ISREG(status.st_mode):
            yield self._read_file(parent_fd, name, path, status)
        else:
            aside.append(SetAside(path=path, reason="neither a file nor a folder"))

    def _read_file(self, parent_fd: int, name: str, path: str, status: os.stat_result) -> _File:
        known = self._file_by_path.get(path)
        if known is not None and known.signature == _signature(status):
            return known
        fd = os.open(name, _OPEN_FILE, dir_fd=parent_fd)
        with open(fd, "rb") as opened:
            status = os.fstat(fd)
            content = opened.read(MAX_FILE_BYTES + 1)
        is_settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _UNSURE_NS
        signature = _signature(status) if is_settled else None
        mode = EXECUTABLE if status.st_mode & 0o100 else _REGULAR
        if len(content) > MAX_FILE_BYTES:
            size = max(status.st_size, len(content))
            entry = Entry(path=path, blob=f"oversized:{size}:{status.st_mtime_ns}", size_bytes=size, mode=mode)
            return _File(entry=entry, content=None, signature=signature)
        entry = Entry(path=path, blob=_blob_id(content), size_bytes=len(content), mode=mode)
        return _File(entry=entry, content=content, signature=signature)


def _link(path: str, target: bytes) -> _File:
    entry = Entry(path=path, blob=_blob_id(target), size_bytes=len(target), mode=SYMLINK)
    return _File(entry=entry, content=target, signature=None)


def _blob_id(content: bytes) -> str:
    """git's id, so that whoever caches by blob knows a file from either kind of source."""
    check = start_object_hash("sha1", "blob", len(content))
    check.update(content)
    return check.hexdigest()


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _digest(files: Mapping[str, _File]) -> str:
    check = hashlib.sha256()
    for path in sorted(files):
        entry = files[path].entry
        for part in (entry.path, entry.mode, entry.blob):
            check.update(f"{len(part.encode())}:{part}".encode())
    return check.hexdigest()[:40]


# --- checkouts ------------------------------------------------------------------------------------


def _copy_tree(root: str, writer: TreeWriter, building_in: str) -> None:
    """Raises OSError, and SourceError where there is too much.

    `building_in` is left out, should it be inside.
    """
    own = os.stat(building_in)
    left_bytes = _MAX_CHECKOUT_BYTES
    for directory, folders, files, fd in os.fwalk(os.fsencode(root)):
        folders[:] = sorted(f for f in folders if os.fsdecode(f) not in _LEFT_OUT_OF_CHECKOUTS)
        if os.path.samestat(os.fstat(fd), own):
            folders[:] = []
            continue
        for name in [*folders, *sorted(files)]:
            path = os.path.relpath(os.path.join(directory, name), os.fsencode(root))
            left_bytes -= _copy_one(writer, fd, name, path)
            if left_bytes < 0:
                raise SourceError(f"copying {root}: more than {_MAX_CHECKOUT_BYTES} bytes")
    writer.finish()


def _copy_one(writer: TreeWriter, directory_fd: int, name: bytes, path: bytes) -> int:
    """The number of bytes. Folders are made with their first file, special files not at all."""
    status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        writer.add_link(path, os.readlink(name, dir_fd=directory_fd))
    if not stat.S_ISREG(status.st_mode):
        return 0
    source = os.open(name, _OPEN_FILE, dir_fd=directory_fd)
    try:
        writer.add_file(path, lambda fd: _copy_content(source, fd), executable=bool(status.st_mode & 0o100))
    finally:
        os.close(source)
    return status.st_size


def _copy_content(source: int, fd: int) -> None:
    while chunk := os.read(source, _CHUNK_BYTES):
        write_all(fd, chunk)
