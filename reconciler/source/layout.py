"""Where a repository keeps things, and what its HEAD and branches say, read from its files without
a process.

A path comes in, values go out; nothing is written. What these few rules don't cover (a HEAD that is
a symbolic link, branches in another format than files) is said to be so, and the caller asks git
instead.
"""

import os
import re
from dataclasses import dataclass

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.core.ref import is_ref_name

_MAX_REF_BYTES = 4096
_OBJECT_ID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_BRANCH_HEAD = re.compile(rb"ref: *refs/heads/([^\n\0]{1,1000})\n?")

# A file or directory of the git directory, what it means, how it is ended.
_OPERATIONS = (
    ("rebase-merge", "a rebase", "git rebase --continue or --abort"),
    ("rebase-apply", "a rebase or git am", "git rebase (or git am) --continue or --abort"),
    ("MERGE_HEAD", "a merge", "git merge --continue or --abort"),
    ("CHERRY_PICK_HEAD", "a cherry-pick", "git cherry-pick --continue or --abort"),
    ("REVERT_HEAD", "a revert", "git revert --continue or --abort"),
    ("BISECT_LOG", "a bisect", "git bisect reset"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Absolute paths. `common_dir` is shared by linked work trees and holds objects and branches.

    `git_dir` holds this work tree's HEAD. `work_tree` is None for a bare repository.
    """

    work_tree: str | None
    git_dir: str
    common_dir: str

    @property
    def objects_dir(self) -> str:
        return os.path.join(self.common_dir, "objects")

    @property
    def shallow_file(self) -> str | None:
        """The list of commits at which history was cut, if it was."""
        path = os.path.join(self.common_dir, "shallow")
        return path if os.path.isfile(path) else None


def locate(path: str) -> Layout | None:
    """The repository whose top is `path` (work tree, linked work tree, or bare).

    Raises OSError if unreadable.
    """
    top = os.path.abspath(path)
    dot_git = os.path.join(top, ".git")
    if os.path.isdir(dot_git):
        return _layout(top, dot_git)
    if os.path.isfile(dot_git):
        pointer = _read_small(dot_git)
        if pointer is None or not pointer.startswith(b"gitdir: "):
            return None
        return _layout(top, os.path.join(top, os.fsdecode(pointer[8:].rstrip(b"\r\n"))))
    return _layout(None, top)


def find_top(path: str) -> str | None:
    """The nearest directory at or above `path` that is the top of a repository."""
    at = os.path.realpath(path)
    while locate(at) is None:
        above = os.path.dirname(at)
        if above == at:
            return None
        at = above
    return at


def _layout(work_tree: str | None, git_dir: str) -> Layout | None:
    git_dir = os.path.normpath(git_dir)
    pointer = _read_small(os.path.join(git_dir, "commondir"))
    common = os.path.normpath(os.path.join(git_dir, os.fsdecode(pointer.strip()))) if pointer else git_dir
    has_head = os.path.lexists(os.path.join(git_dir, "HEAD"))
    if not (has_head and os.path.isdir(os.path.join(common, "objects")) and _has_refs(common)):
        return None
    return Layout(work_tree=work_tree, git_dir=git_dir, common_dir=common)


def _has_refs(common_dir: str) -> bool:
    return os.path.isdir(os.path.join(common_dir, "refs"))


def _read_small(path: str) -> bytes | None:
    """At most 4 KiB of a regular file; None where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.read(fd, _MAX_REF_BYTES)
    except IsADirectoryError:
        return None
    finally:
        os.close(fd)


# --- what is going on -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """`branch` of `refs/heads/`, or the commit id of a detached HEAD, or neither where only git can
    tell.
    """

    branch: str | None = None
    commit: str | None = None


def read_head(layout: Layout) -> Head:
    """Raises OSError if HEAD is unreadable."""
    path = os.path.join(layout.git_dir, "HEAD")
    if os.path.islink(path):
        return Head()
    text = _read_small(path) or b""
    if (match := _BRANCH_HEAD.fullmatch(text)) and match[1] != b".invalid":
        return Head(branch=os.fsdecode(match[1]))
    if _OBJECT_ID.fullmatch(text.rstrip(b"\n")):
        return Head(commit=text.rstrip(b"\n").decode())
    return Head()


def operation_in_progress(layout: Layout) -> str | None:
    """A sentence about the rebase, merge, cherry-pick, revert or bisect that a person is in the
    middle of.
    """
    for name, what, end in _OPERATIONS:
        if os.path.lexists(os.path.join(layout.git_dir, name)):
            return f"{what} is in progress in {layout.work_tree or layout.git_dir}; end it with {end}"
    return None


def is_branch_name(name: str) -> bool:
    """Whether git would take it as a branch's name, and it can neither be an option nor leave
    `refs/heads/`.
    """
    return is_ref_name(name)


# --- branches -------------------------------------------------------------------------------------


@dataclass(slots=True)
class BranchReader:
    """Reads branches from files.

    Remembers the last answer of `packed-refs`, so that an unchanged one isn't read.
    """

    _packed: tuple[tuple[int, int, int], str, str | None] | None = None

    def read(self, layout: Layout, branch: str) -> Reading[str]:
        """The commit id; `Unavailable` where git has to be asked.

        Raises OSError if the files are unreadable.
        """
        if os.path.isdir(os.path.join(layout.common_dir, "reftable")):
            return Unavailable(reason="the branches are not kept in files")
        # git's own order: a loose ref wins; it is deleted only after it was packed.
        loose = _read_small(os.path.join(layout.common_dir, "refs", "heads", branch))
        if loose is not None:
            return _only_id(loose)
        packed = self._read_packed(os.path.join(layout.common_dir, "packed-refs"), branch)
        return Absent() if packed is None else Ok(packed)

    def _read_packed(self, path: str, branch: str) -> str | None:
        known = self._packed
        try:
            with open(path, "rb") as packed:
                status = os.fstat(packed.fileno())
                identity = (status.st_ino, status.st_size, status.st_mtime_ns)
                if known is None or known[:2] != (identity, branch):
                    known = self._packed = (identity, branch, _find_packed(packed.read(), branch))
                return known[2]
        except FileNotFoundError:
            return None


def _only_id(text: bytes) -> Reading[str]:
    object_id = text.rstrip(b"\n")
    if _OBJECT_ID.fullmatch(object_id):
        return Ok(object_id.decode())
    return Unavailable(reason="the branch is not a plain commit id")


def _find_packed(packed: bytes, branch: str) -> str | None:
    name = re.escape(b" refs/heads/" + os.fsencode(branch))
    match = re.search(rb"^([0-9a-f]{40}(?:[0-9a-f]{24})?)" + name + rb"$", packed, re.MULTILINE)
    return match[1].decode() if match else None
