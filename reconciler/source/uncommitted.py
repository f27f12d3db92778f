"""What differs from the last commit, found without an index and without filters.

`git status` would run the filters and the file-system monitor that the repository's configuration
names. Here the files are hashed and compared with the ids in HEAD's tree; a file with CRLF that is
committed with LF counts as equal. A file that a filter changes on its way in (LFS) is therefore
reported; for a report that is good enough.
"""

import os
import stat
from collections.abc import Mapping, Sequence

from reconciler.errors import SourceError
from reconciler.source.git import ObjectView, object_format_of, start_object_hash
from reconciler.source.layout import Layout
from reconciler.source.objects import ObjectReader
from reconciler.source.tree import SUBMODULE, SYMLINK, TreeEntry, check_folder, list_tree, show_path

_MAX_CONVERTED_BYTES = 2**20


def list_uncommitted(view: ObjectView, layout: Layout, commit: str, folders: Sequence[str]) -> tuple[str, ...]:
    """Changed, removed and new paths (not the ignored ones), by name, printable.

    Raises SourceError, OSError.
    """
    assert layout.work_tree is not None
    if not folders:
        return ()
    reader = ObjectReader(view)
    try:
        leaf_by_path = {leaf.path: leaf for leaf in list_tree(reader, commit, *folders)}
        size_by_id = reader.sizes([leaf.object_id for leaf in leaf_by_path.values() if leaf.mode != SUBMODULE])
    finally:
        reader.close()
    changed = {path for path, leaf in leaf_by_path.items() if _differs(layout.work_tree, leaf, size_by_id)}
    new = {path for path in _list_unignored(view, layout, folders) if path not in leaf_by_path}
    return tuple(sorted(show_path(path) for path in changed | new))


def _differs(work_tree: str, leaf: TreeEntry, size_by_id: Mapping[str, int]) -> bool:
    path = os.path.join(os.fsencode(work_tree), leaf.path)
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    if leaf.mode == SUBMODULE:
        return not stat.S_ISDIR(status.st_mode)
    if leaf.mode == SYMLINK:
        return not (stat.S_ISLNK(status.st_mode) and _id_of(os.readlink(path), leaf) == leaf.object_id)
    if not stat.S_ISREG(status.st_mode):
        return True
    size_bytes = size_by_id[leaf.object_id]
    if status.st_size != size_bytes and not size_bytes < status.st_size <= _MAX_CONVERTED_BYTES:
        return True
    content = _read(path)
    return leaf.object_id not in (
        _id_of(content, leaf),
        _id_of(content.replace(b"\r\n", b"\n"), leaf),
    )


def _read(path: bytes) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as content:
        return content.read()


def _id_of(content: bytes, leaf: TreeEntry) -> str:
    check = start_object_hash(object_format_of(leaf.object_id), "blob", len(content))
    check.update(content)
    return check.hexdigest()


def _list_unignored(view: ObjectView, layout: Layout, folders: Sequence[str]) -> list[bytes]:
    """Files that are not ignored.

    Our empty repository has no index, so git takes all of them for untracked.
    """
    assert layout.work_tree is not None
    exclude = os.path.join(layout.common_dir, "info", "exclude")
    excludes = [f"--exclude-from={exclude}"] if os.path.isfile(exclude) else []
    pathspec = [] if "" in folders else [check_folder(folder) for folder in folders]
    answer = view.run(
        *(
            "ls-files",
            "-z",
            "--others",
            "--exclude-per-directory=.gitignore",
            *excludes,
            "--",
            *pathspec,
        ),
        env={"GIT_WORK_TREE": layout.work_tree},
    )
    if answer.code != 0:
        raise SourceError(f"listing the files of {layout.work_tree}: {answer.complaint or 'git ls-files failed'}")
    return answer.stdout.split(b"\0")[:-1]
