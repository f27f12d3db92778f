"""`GitSnapshot`: the immutable tree of one commit, listed and read only where asked.

Each folder is listed by one `git ls-tree` and remembered; contents come through one `git cat-file`
process, which starts at the first read and ends with `close`, or with the snapshot.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType

from reconciler.errors import SourceError
from reconciler.ports import Entry, Revision, SetAside
from reconciler.source.git import ObjectReader, ObjectView
from reconciler.source.tree import SYMLINK, Listing, list_tree, sort_out

MAX_FILE_BYTES = 2**20


class GitSnapshot:
    """The tree of one commit. For one thread at a time; a context manager that closes itself."""

    def __init__(self, view: ObjectView, commit: str, revision: Revision, sizes: dict[str, int] | None = None) -> None:
        """`sizes` is what earlier snapshots learnt of blobs, by id; it is added to."""
        self._sizes = {} if sizes is None else sizes
        self._view = view
        self._commit = commit
        self._revision = revision
        self._listing_by_folder: dict[str, Listing] = {}
        self._reader: ObjectReader | None = None

    @property
    def revision(self) -> Revision:
        return self._revision

    @property
    def max_file_bytes(self) -> int:
        """`read` refuses larger files; check `Entry.size_bytes` first and report a problem."""
        return MAX_FILE_BYTES

    def entries(self, folder: str) -> Sequence[Entry]:
        """Regular files and symbolic links (mode 120000) at or below `folder`, by path; `""` for
        the whole tree.

        A `folder` that is itself a file or a link is its own only entry. Raises SourceError.
        """
        return self._listing(folder).entries

    def set_aside(self, folder: str) -> Sequence[SetAside]:
        """What is there too, but is not an entry: submodules, and names unfit for records.

        Raises SourceError.
        """
        return self._listing(folder).set_aside

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        """Contents by path; of a symbolic link its target.

        Raises SourceError, also for an oversized entry.
        """
        for entry in entries:
            if entry.size_bytes > MAX_FILE_BYTES:
                raise oversized(entry)
        if not entries:
            return {}
        if self._reader is None:
            self._reader = self._view.reader()
        content_by_id = self._reader.read(list(dict.fromkeys(e.blob for e in entries)))
        return {entry.path: content_by_id[entry.blob] for entry in entries}

    def close(self) -> None:
        """End the process, if one was started. Calling it again is fine."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> "GitSnapshot":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def prepare(self, folders: Sequence[str]) -> None:
        """List several folders or files by one process instead of one each. Raises SourceError."""
        new = [f for f in folders if f not in self._listing_by_folder]
        if len(new) < 2:
            return
        listing = sort_out(list_tree(self._view, self._commit, *new, sizes=self._sizes))
        for folder in new:
            self._listing_by_folder[folder] = Listing(
                entries=tuple(e for e in listing.entries if is_within(e.path, folder)),
                set_aside=tuple(a for a in listing.set_aside if is_within(a.path, folder)),
            )

    def _listing(self, folder: str) -> Listing:
        if folder not in self._listing_by_folder:
            self._listing_by_folder[folder] = sort_out(list_tree(self._view, self._commit, folder, sizes=self._sizes))
        return self._listing_by_folder[folder]


def oversized(entry: Entry) -> SourceError:
    """The error of a `read` that should have looked at the size first."""
    return SourceError(f"reading {entry.path}: {entry.size_bytes} bytes, more than {MAX_FILE_BYTES}")


def is_within(path: str, folder: str) -> bool:
    """Whether a path is the folder (or file) itself or below it; `""` is the whole tree."""
    return not folder or path == folder or path.startswith(f"{folder.rstrip('/')}/")


def is_link(entry: Entry) -> bool:
    """Whether it is a symbolic link, which no manifest may be."""
    return entry.mode == SYMLINK
