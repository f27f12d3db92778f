"""The entries of a git tree, and which of their paths are fit to be used.

The output of `git ls-tree -r -z -l` comes in as bytes. `list_tree` keeps every entry with the
path's own bytes, for checkouts; `sort_out` makes the `Entry` values of the port, and sets aside
what has no place there, with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.errors import SourceError
from reconciler.ports import Entry, SetAside
from reconciler.source.git import ObjectView

SYMLINK = "120000"
SUBMODULE = "160000"
EXECUTABLE = "100755"
MAX_ENTRIES = 200_000
MAX_SIZES = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """One leaf of a tree as git has it. `size_bytes` is 0 for a submodule."""

    path: bytes
    mode: str
    object_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is below a folder, each by path."""

    entries: tuple[Entry, ...] = ()
    set_aside: tuple[SetAside, ...] = ()


def list_tree(
    view: ObjectView,
    commit: str,
    *folders: str,
    max_entries: int = MAX_ENTRIES,
    sizes: dict[str, int] | None = None,
) -> list[TreeEntry]:
    """All leaves at or below the folders (none, or `""`: all).

    Asking git for the sizes of all blobs takes longer than anything else here, so `sizes` remembers them by id from one
    listing to the next. Raises SourceError if unreadable, or more than `max_entries`.
    """
    pathspec = [] if "" in folders else [check_folder(folder) for folder in folders]
    long = [] if sizes else ["-l"]
    answer = view.run("ls-tree", "-r", "-z", *long, "--full-tree", commit, "--", *pathspec)
    what = f"listing {', '.join(pathspec) or 'the tree'} of {commit[:12]}"
    if answer.code != 0:
        raise SourceError(f"{what}: {answer.complaint or 'git ls-tree failed'}")
    records = answer.stdout.split(b"\0")[:-1]
    if len(records) > max_entries:
        raise SourceError(f"{what}: {len(records)} files, more than {max_entries}")
    if sizes:
        _learn_sizes(view, [_object_id(r) for r in records if r[7:11] == b"blob"], sizes, what)
        return [_parse_record(_with_size(record, sizes), what) for record in records]
    leaves = [_parse_record(record, what) for record in records]
    if sizes is not None:
        sizes.update((leaf.object_id, leaf.size_bytes) for leaf in leaves if leaf.mode != SUBMODULE)
    return leaves


def _object_id(record: bytes) -> str:
    return record.partition(b"\t")[0].rpartition(b" ")[2].decode("ascii", "replace")


def _with_size(record: bytes, sizes: Mapping[str, int]) -> bytes:
    """A short record in the form of a long one."""
    head, _, path = record.partition(b"\t")
    size = sizes.get(_object_id(record), "-")
    return b"%s %s\t%s" % (head, str(size).encode(), path)


def _learn_sizes(view: ObjectView, object_ids: Sequence[str], sizes: dict[str, int], what: str) -> None:
    if len(sizes) > MAX_SIZES:
        for object_id in sizes.keys() - set(object_ids):
            del sizes[object_id]
    unknown = [i for i in object_ids if i not in sizes]
    if not unknown:
        return
    answer = view.run("cat-file", "--batch-check", stdin="".join(f"{i}\n" for i in unknown).encode())
    if answer.code != 0:
        raise SourceError(f"{what}: {answer.complaint or 'git cat-file failed'}")
    for line in answer.stdout.decode("ascii", "replace").splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2].isdigit():
            sizes[fields[0]] = int(fields[2])


def check_folder(folder: str) -> str:
    """`folder` without a trailing slash. Raises SourceError if it could lead out of the tree."""
    parts = folder.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise SourceError(f"looking up {folder!r}: not a path inside the tree; write it like 'agents.d'")
    return "/".join(parts)


def _parse_record(record: bytes, what: str) -> TreeEntry:
    # <mode> SP <type> SP <id> SP+ <size or '-'> TAB <path>
    head, _, path = record.partition(b"\t")
    mode, kind, object_id, size = head.decode("ascii", "replace").split()
    if kind == "commit":
        return TreeEntry(path=path, mode=SUBMODULE, object_id=object_id, size_bytes=0)
    if not size.isdigit():
        raise SourceError(f"{what}: object {object_id} of {path!r} is missing or corrupt (git fsck)")
    return TreeEntry(path=path, mode=mode, object_id=object_id, size_bytes=int(size))


def sort_out(tree: Iterable[TreeEntry]) -> Listing:
    """Regular files and links become entries; submodules and unusable names are set aside."""
    entries: list[Entry] = []
    aside: list[SetAside] = []
    for leaf in tree:
        if reason := _why_aside(leaf):
            aside.append(SetAside(path=show_path(leaf.path), reason=reason))
        else:
            entries.append(
                Entry(
                    path=leaf.path.decode(),
                    blob=leaf.object_id,
                    size_bytes=leaf.size_bytes,
                    mode=leaf.mode,
                )
            )
    return Listing(entries=tuple(sorted(entries, key=lambda e: e.path)), set_aside=tuple(aside))


def _why_aside(leaf: TreeEntry) -> str | None:
    if leaf.mode == SUBMODULE:
        return "a submodule: its files are not part of this repository"
    return why_unusable(leaf.path)


def why_unusable(path: bytes) -> str | None:
    """Why a path is not fit to be named in records and messages, or None."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return "its name is not UTF-8"
    if not text.isprintable():
        return "its name has characters that don't print"
    if not is_safe_path(path):
        return "its name could lead out of the tree or into .git"
    return None


def is_safe_path(path: bytes) -> bool:
    """Whether a path can be made below a directory without leaving it or touching a `.git`."""
    parts = path.split(b"/")
    return not any(part in (b"", b".", b"..") or b"\0" in part or part.lower() == b".git" for part in parts)


def show_path(path: bytes) -> str:
    """For people: what isn't UTF-8 or doesn't print is escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_inside(link: bytes, target: bytes) -> bool:
    """Whether a symbolic link at path `link` certainly stays in the tree.

    Only a leading run of `..` is accepted, no longer than the link is deep: the link's own
    directory is a real one, and each further link on the way obeys the same rule. A `..` after a
    name could climb out through such a link.
    """
    parts: Sequence[bytes] = [part for part in target.split(b"/") if part not in (b"", b".")]
    if not target or target.startswith(b"/") or b"\0" in target:
        return False
    climbs = next((i for i, part in enumerate(parts) if part != b".."), len(parts))
    return climbs <= link.count(b"/") and b".." not in parts[climbs:]
