"""`GitSnapshot`: the immutable tree of one commit, listed and read only where asked.

Folders are listed once and remembered. A process that reading started ends with `close`, or with the
snapshot.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from types import TracebackType

from reconciler.errors import SourceError
from reconciler.ports import Entry, Revision, SetAside
from reconciler.source.git import ObjectView
from reconciler.source.objects import ObjectReader
from reconciler.source.tree import SUBMODULE, SYMLINK, Listing, list_tree, sort_out

MAX_FILE_BYTES = 2**20
MAX_SIZES = 500_000


class GitSnapshot:
    """The tree of one commit. For one thread at a time; a context manager that closes itself."""

    def __init__(self, view: ObjectView, commit: str, revision: Revision, sizes: dict[str, int] | None = None) -> None:
        """`sizes` is what earlier snapshots learnt of blobs, by id; it is added to."""
        self._sizes = {} if sizes is None else sizes
        self._commit = commit
        self._revision = revision
        self._listing_by_folder: dict[str, Listing] = {}
        self._objects = ObjectReader(view)

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
        content_by_id = self._objects.read(list(dict.fromkeys(e.blob for e in entries)))
        return {entry.path: content_by_id[entry.blob] for entry in entries}

    def close(self) -> None:
        """End the process, if one was started. Calling it again is fine."""
        self._objects.close()

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
        """List several folders or files in one go. Raises SourceError."""
        new = [f for f in folders if f not in self._listing_by_folder]
        if len(new) < 2:
            return
        listing = self._list(*new)
        for folder in new:
            self._listing_by_folder[folder] = Listing(
                entries=_within(listing.entries, folder),
                set_aside=tuple(a for a in listing.set_aside if is_within(a.path, folder)),
            )

    def _listing(self, folder: str) -> Listing:
        if folder not in self._listing_by_folder:
            self._listing_by_folder[folder] = self._list(folder)
        return self._listing_by_folder[folder]

    def _list(self, *folders: str) -> Listing:
        leaves = list_tree(self._objects, self._commit, *folders)
        self._learn_sizes([leaf.object_id for leaf in leaves if leaf.mode != SUBMODULE])
        return sort_out(leaves, self._sizes)

    def _learn_sizes(self, blobs: Sequence[str]) -> None:
        """Asking git for the sizes of all blobs takes longer than anything else here, so they are remembered."""
        if len(self._sizes) > MAX_SIZES:
            for blob in self._sizes.keys() - set(blobs):
                self._sizes.pop(blob, None)
        unknown = [blob for blob in blobs if blob not in self._sizes]
        if unknown:
            self._sizes.update(self._objects.sizes(unknown))


def _within(entries: tuple[Entry, ...], folder: str) -> tuple[Entry, ...]:
    """Those at or below a folder, of entries by path."""
    at = folder.rstrip("/")
    if not at:
        return entries
    # What is below begins with "/", and "0" is the character after that.
    itself, first, after = (bisect_left(entries, at + end, key=lambda e: e.path) for end in ("", "/", "0"))
    return (*(e for e in entries[itself : itself + 1] if e.path == at), *entries[first:after])


def oversized(entry: Entry) -> SourceError:
    """The error of a `read` that should have looked at the size first."""
    return SourceError(f"reading {entry.path}: {entry.size_bytes} bytes, more than {MAX_FILE_BYTES}")


def is_within(path: str, folder: str) -> bool:
    """Whether a path is the folder (or file) itself or below it; `""` is the whole tree."""
    return not folder or path == folder or path.startswith(f"{folder.rstrip('/')}/")


def is_link(entry: Entry) -> bool:
    """Whether it is a symbolic link, which no manifest may be."""
    return entry.mode == SYMLINK
