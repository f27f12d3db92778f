"""What is in a git tree, and which of their paths are fit to be used.

Tree objects are read as git stores them, folder by folder, and only on the way to what was asked
for. `list_tree` keeps every leaf with the path's own bytes, for checkouts; `sort_out` makes the
`Entry` values of the port, and sets aside what has no place there, with the reason.
"""

import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from reconciler.errors import SourceError
from reconciler.ports import Entry, SetAside
from reconciler.source.objects import ObjectReader

SYMLINK = "120000"
SUBMODULE = "160000"
EXECUTABLE = "100755"
MAX_ENTRIES = 200_000

_UNSAFE = frozenset((b"", b".", b"..", b".git"))
_REGULAR = "100644"
_FOLDER = "040000"
_MAX_TREE_BYTES = 2**26
_ROOT = re.compile(rb"tree ([0-9a-f]{40}(?:[0-9a-f]{24})?)\n")
# Mode, name and id of one thing in a tree.
_Record: TypeAlias = tuple[str, bytes, str]
# By the length of an id in bytes: <mode> SP <name> NUL <id>, again and again.
_RECORD = {n: re.compile(rb"([0-7]{5,6}) ([^\0]+)\0(.{%d})" % n, re.DOTALL) for n in (20, 32)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """What a tree has at a path, as git has it: a file, a link, a submodule, or on the way a folder."""

    path: bytes
    mode: str
    object_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is below a folder, each by path."""

    entries: tuple[Entry, ...] = ()
    set_aside: tuple[SetAside, ...] = ()


def list_tree(reader: ObjectReader, commit: str, *folders: str, max_entries: int = MAX_ENTRIES) -> list[TreeEntry]:
    """All leaves at or below the folders (none, or `""`: all), those nearer to the top first.

    Raises SourceError if unreadable, or more than `max_entries` files and folders.
    """
    places = _Places.of(folders)
    leaves: list[TreeEntry] = []
    level = [TreeEntry(path=b"", mode=_FOLDER, object_id=_root_of(reader, commit))]
    seen = 0
    while level:
        trees = _read_trees(reader, [folder.object_id for folder in level])
        seen += sum(len(trees[folder.object_id]) for folder in level)
        if seen > max_entries:
            what = f"listing {', '.join(folders) or 'the tree'} of {commit[:12]}"
            raise SourceError(f"{what}: more than {max_entries} files and folders")
        found = [child for folder in level for child in _wanted_in(folder, trees[folder.object_id], places)]
        leaves.extend(child for child in found if child.mode != _FOLDER)
        level = [child for child in found if child.mode == _FOLDER]
    return leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """What of a tree was asked for, and the folders that lead there. No `targets`: all of it."""

    targets: frozenset[bytes]
    above: frozenset[bytes]

    @classmethod
    def of(cls, folders: Sequence[str]) -> "_Places":
        targets = [] if "" in folders else [check_folder(folder).encode() for folder in folders]
        above = {b"/".join(parts[:n]) for parts in (t.split(b"/") for t in targets) for n in range(1, len(parts))}
        return cls(targets=frozenset(targets), above=frozenset(above))

    def hold(self, folder: bytes) -> bool:
        """Whether everything in a folder was asked for."""
        return not self.targets or any(folder == t or folder.startswith(t + b"/") for t in self.targets)

    def lead_to(self, entry: TreeEntry) -> bool:
        return entry.path in self.targets or (entry.mode == _FOLDER and entry.path in self.above)


def _wanted_in(folder: TreeEntry, tree: Sequence[_Record], places: _Places) -> list[TreeEntry]:
    prefix = folder.path + b"/" if folder.path else b""
    children = [TreeEntry(path=prefix + name, mode=mode, object_id=id_) for mode, name, id_ in tree]
    return children if places.hold(folder.path) else [child for child in children if places.lead_to(child)]


def _root_of(reader: ObjectReader, commit: str) -> str:
    found = _ROOT.match(reader.read([commit], kind="commit")[commit])
    if found is None:
        raise SourceError(f"reading commit {commit}: it names no tree; git fsck says more")
    return found[1].decode()


def _read_trees(reader: ObjectReader, tree_ids: Sequence[str]) -> Mapping[str, Sequence[_Record]]:
    contents = reader.read(list(dict.fromkeys(tree_ids)), kind="tree", max_bytes=_MAX_TREE_BYTES)
    return {tree_id: _parse_tree(tree_id, content) for tree_id, content in contents.items()}


def _parse_tree(tree_id: str, content: bytes) -> Sequence[_Record]:
    id_bytes = len(tree_id) // 2
    records = _RECORD[id_bytes].findall(content)
    if sum(len(mode) + len(name) + 2 + id_bytes for mode, name, _ in records) != len(content):
        raise SourceError(f"reading tree {tree_id}: it is malformed; git fsck says more")
    return [(_mode_of(mode), name, object_id.hex()) for mode, name, object_id in records]


@lru_cache(maxsize=64)
def _mode_of(text: bytes) -> str:
    """As git takes it: of a file's permissions only counts whether its owner may run it."""
    bits = int(text, 8)
    if stat.S_ISREG(bits):
        return EXECUTABLE if bits & stat.S_IXUSR else _REGULAR
    if stat.S_ISLNK(bits):
        return SYMLINK
    return _FOLDER if stat.S_ISDIR(bits) else SUBMODULE


def check_folder(folder: str) -> str:
    """`folder` without a trailing slash. Raises SourceError if it could lead out of the tree."""
    parts = folder.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise SourceError(f"looking up {folder!r}: not a path inside the tree; write it like 'agents.d'")
    return "/".join(parts)


def sort_out(tree: Iterable[TreeEntry], size_by_id: Mapping[str, int]) -> Listing:
    """Regular files and links become entries; submodules and unusable names are set aside."""
    entries: list[Entry] = []
    aside: list[SetAside] = []
    for leaf in tree:
        found = _entry_of(leaf.path, leaf.mode, leaf.object_id, size_by_id.get(leaf.object_id, 0))
        if isinstance(found, Entry):
            entries.append(found)
        else:
            aside.append(found)
    return Listing(entries=tuple(sorted(entries, key=lambda e: e.path)), set_aside=tuple(aside))


@lru_cache(maxsize=8192)
def _entry_of(path: bytes, mode: str, object_id: str, size_bytes: int) -> Entry | SetAside:
    """Remembered, because from one commit to the next nearly all are the same."""
    reason = "a submodule: its files are not part of this repository" if mode == SUBMODULE else why_unusable(path)
    if reason is not None:
        return SetAside(path=show_path(path), reason=reason)
    return Entry(path=path.decode(), blob=object_id, size_bytes=size_bytes, mode=mode)


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
    return _UNSAFE.isdisjoint(path.lower().split(b"/")) and b"\0" not in path


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
