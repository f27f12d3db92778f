"""`LocalRepository`: desired state from a branch of a repository on this host.

A path and the name of a branch come in; readings of revisions, snapshots and checkouts go out. The
repository is never written to, and nothing in it is run. An unchanged branch costs a few file reads
and no process.
"""

import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import closing

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import SourceError
from reconciler.ports import Revision
from reconciler.source.checkout import TreeWriter, build_directory
from reconciler.source.commit import parse_commit
from reconciler.source.git import (
    EmptyRepository,
    ObjectView,
    object_format_of,
    run_git,
)
from reconciler.source.history import write_history
from reconciler.source.layout import (
    BranchReader,
    Layout,
    is_branch_name,
    locate,
    operation_in_progress,
    read_head,
)
from reconciler.source.objects import ObjectReader
from reconciler.source.signed import FollowedTag, Signatures
from reconciler.source.snapshot import GitSnapshot
from reconciler.source.tree import EXECUTABLE, SUBMODULE, SYMLINK, TreeEntry, list_tree
from reconciler.source.unavailable import from_error, unavailable, unsettled
from reconciler.source.uncommitted import list_uncommitted

_FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
# What an operator may name: a branch, tag, id or HEAD, and steps back from it.
_REVISION = re.compile(r"(?P<base>[^~^]{1,250})(?P<steps>(?:[~^][0-9]{0,4}){0,20})")
_REF_TIMEOUT_S = 5.0
_KEPT_REVISIONS = 64


def current_branch(path: str) -> Reading[str]:
    """The branch that HEAD names, to be recorded at first start; it need not have a commit yet."""
    try:
        layout = locate(path)
        if layout is None:
            return _not_a_repository(path)
        head = read_head(layout)
    except OSError as exc:
        return unavailable(f"{path} cannot be read: {exc.strerror}")
    if head.commit:
        return _detached(layout)
    if head.branch is None or not is_branch_name(head.branch):
        return unavailable(f"HEAD of {path} names no usable branch; switch to one, or name it with 'ref'")
    return Ok(head.branch)


def has_branch(path: str, branch: str) -> bool:
    """Whether a repository has that branch, with a commit. Raises SourceError."""
    with closing(LocalRepository(path, branch)) as repository:
        return isinstance(repository.head(), Ok)


class LocalRepository:
    """A `Source` over one repository.

    `head`, `snapshot` and `checkout` may be called from several threads. `branch` None stands for
    whatever HEAD is, settled or not: for commands that run once, in a check-out of a continuous
    integration for example, never for following.
    """

    def __init__(
        self,
        path: str,
        branch: str | None,
        *,
        quarantine: str | None = None,
        signatures: Signatures | None = None,
    ) -> None:
        """`quarantine` holds the objects of a push to this very repository that is not accepted yet."""
        if branch is not None and not is_branch_name(branch):
            raise SourceError(f"opening {path}: {branch!a} is not the name of a branch")
        self._path = os.path.abspath(path)
        self._branch = branch
        self._quarantine = os.path.realpath(quarantine) if quarantine else None
        self._signatures = signatures
        self._branches = BranchReader()
        self._sizes: dict[str, int] = {}
        self._empty = EmptyRepository()
        self._revision_by_id: dict[str, Revision] = {}
        self._descent = ("", "")
        self._checkout_lock = threading.Lock()

    def close(self) -> None:
        """Remove the temporary directory. The source is of no use afterwards."""
        self._empty.close()

    def refresh(self) -> None:
        """Nothing to do: `head` looks each time."""

    def notify(self, ring: Callable[[], None]) -> None:
        """Nothing to do: what is watched tells all."""

    # --- which revision ---------------------------------------------------------------------------

    def head(self) -> Reading[Revision]:
        """The tip of the followed branch.

        The reason of an `Unavailable` begins with the condition's name.
        """
        try:
            layout = locate(self._path)
            if layout is None:
                return _not_a_repository(self._path)
            commit = self._read_head(layout) if self._branch is None else self._read_followed(layout, self._branch)
            if not isinstance(commit, Ok):
                return commit
            revision = self._describe(layout, commit.value)
        except OSError as exc:
            return unavailable(f"{self._path} cannot be read: {exc.strerror}; check who may read it")
        except SourceError as exc:
            return from_error(exc)
        if revision is None:
            return unavailable(f"commit {commit.value} is missing in {self._path}; run git fsck there")
        return Ok(revision)

    def _read_followed(self, layout: Layout, branch: str) -> Ok[str] | Unavailable:
        if layout.work_tree and (operation := operation_in_progress(layout)):
            return unsettled(operation)
        head = read_head(layout)
        if layout.work_tree and head.commit:
            return _detached(layout)
        commit = self._read_branch(layout, branch)
        if isinstance(commit, Absent):
            return _no_branch(layout, branch, is_unborn=head.branch == branch)
        return commit

    def _read_branch(self, layout: Layout, branch: str | None) -> Reading[str]:
        """Of HEAD where `branch` is None. Raises OSError, SourceError."""
        if branch is None or not is_branch_name(branch):
            return _ask_git(layout, "HEAD")
        commit = self._branches.read(layout, branch)
        return _ask_git(layout, f"refs/heads/{branch}") if isinstance(commit, Unavailable) else commit

    def _read_head(self, layout: Layout) -> Ok[str] | Unavailable:
        head = read_head(layout)
        commit: Reading[str] = Ok(head.commit) if head.commit else self._read_branch(layout, head.branch)
        if isinstance(commit, Absent):
            return _no_branch(layout, head.branch or "HEAD", is_unborn=True)
        return commit

    def _describe(self, layout: Layout, commit: str) -> Revision | None:
        """None where there is no such object. Raises SourceError, also if it is no commit."""
        if known := self._revision_by_id.get(commit):
            return known
        text = ObjectReader(self._view(layout, commit)).find(commit, "commit")
        if text is None:
            return None
        if len(self._revision_by_id) >= _KEPT_REVISIONS:
            self._revision_by_id = {}
        revision = self._revision_by_id[commit] = parse_commit(commit, text)
        return revision

    def _resolve(self, layout: Layout, name: str) -> str | None:
        """The commit that an operator's word stands for. Raises SourceError if git cannot tell."""
        if _FULL_ID.fullmatch(name):
            base, steps = name, ""
        else:
            match = _REVISION.fullmatch(name)
            if match is None or not is_branch_name(match["base"]):
                raise SourceError(f"looking up {name!a}: write a commit id, a branch, a tag, or HEAD~1")
            found = _ask_git(layout, match["base"])
            if isinstance(found, Absent):
                return None
            if isinstance(found, Unavailable):
                raise SourceError(found.reason)
            base, steps = found.value, match["steps"]
        answer = self._view(layout, base).run(
            "rev-parse", "--verify", "-q", "--end-of-options", f"{base}{steps}^{{commit}}"
        )
        if answer.code == 0:
            return answer.stdout.decode().strip()
        if answer.complaint:
            raise SourceError(f"looking up {name} in {self._path}: {answer.complaint}")
        return None

    # --- what is in it ----------------------------------------------------------------------------

    def snapshot(self, revision: str) -> Reading[GitSnapshot]:
        """The tree of a commit, given by id, branch, tag or `HEAD~1`; `Absent` if there is none.

        Close it.
        """
        try:
            layout = self._located()
            commit = revision if revision in self._revision_by_id else self._resolve(layout, revision)
            described = self._describe(layout, commit) if commit else None
        except SourceError as exc:
            return from_error(exc)
        if commit is None or described is None:
            return Absent()
        return Ok(GitSnapshot(self._view(layout, commit), commit, described, self._sizes))

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether `newer` descends from `older` or is it; both full commit ids.

        An `older` that is gone (rewritten history, collected) is no ancestor. Raises SourceError if
        `newer` is missing, or if the history is cut off (a shallow clone) before it could tell.
        """
        layout = self._located()
        _check_ids(older, newer)
        if older == newer or self._descent == (older, newer):
            return True
        view = self._view(layout, newer)
        answer = view.run("merge-base", "--is-ancestor", older, newer)
        if answer.code == 0:
            self._descent = (older, newer)
            return True
        if layout.shallow_file:
            raise SourceError(
                f"comparing {older[:12]} with {newer[:12]}: the history is cut off; "
                f"run git fetch --unshallow in {self._path}"
            )
        if answer.code == 1 or self._is_missing(view, older, newer):
            return False
        raise SourceError(f"comparing {older[:12]} with {newer[:12]}: {answer.complaint or 'git failed'}")

    def unverified(self, since: str, revision: str, tag: FollowedTag | None = None) -> str | None:
        """See `Source`; `tag` is what is followed, where that is one. Raises SourceError."""
        if self._signatures is None:
            return None
        view = self._view(self._located(), revision)
        _check_ids(revision, *([since] if since else []))
        return self._signatures.find_fault(view, since, revision, tag)

    def _is_missing(self, view: ObjectView, older: str, newer: str) -> bool:
        found = view.run("cat-file", "--batch-check", stdin=f"{older}\n{newer}\n".encode())
        return found.stdout.split(b"\n")[0].endswith(b" missing") and found.stdout.count(b" missing") == 1

    def diff_names(self, old: str, new: str) -> Sequence[tuple[str, str]]:
        """(`A`, `M`, `D` or `T`, path) of what differs between two commit ids, for people.

        Raises SourceError.
        """
        layout = self._located()
        _check_ids(old, new)
        answer = self._view(layout, new).run(
            "diff-tree",
            "-r",
            "-z",
            "--name-status",
            "--no-renames",
            "--no-ext-diff",
            "--end-of-options",
            old,
            new,
        )
        if answer.code != 0:
            raise SourceError(f"comparing {old[:12]} with {new[:12]}: {answer.complaint or 'git failed'}")
        fields = answer.stdout.decode("utf-8", "backslashreplace").split("\0")[:-1]
        return list(zip(fields[::2], fields[1::2], strict=True))

    def dirty(self, folders: Sequence[str]) -> Sequence[str]:
        """Paths at or below `folders` whose content is not what HEAD has, by name.

        Raises SourceError.
        """
        layout = self._located()
        try:
            head = self._read_head(layout)
            if isinstance(head, Unavailable):
                raise SourceError(head.reason)
            if layout.work_tree is None:
                return ()
            return list_uncommitted(self._view(layout, head.value), layout, head.value, folders)
        except OSError as exc:
            raise SourceError(f"comparing {layout.work_tree} with its last commit") from exc

    # --- making it available ----------------------------------------------------------------------

    def checkout(self, revision: str, target: str, *, history: bool) -> None:
        """See `Source`.

        With `history`, `.git` has what the commit reaches, detached. Already there is fine.
        """
        layout = self._located()
        with self._checkout_lock:
            if os.path.lexists(target):
                return
            commit = self._resolve(layout, revision)
            if commit is None:
                raise SourceError(f"making the checkout {target}: there is no commit {revision!a}")
            view = self._view(layout, commit)
            with build_directory(target) as partial:
                _write_tree(TreeWriter(partial), view, commit)
                if history:
                    write_history(partial, view, layout.git_dir, commit)

    def watch_paths(self) -> Sequence[str]:
        """Directories, each to be watched by itself and not recursively.

        The files in them are replaced by rename, so that watching a file would lose it.
        """
        try:
            layout = locate(self._path)
        except OSError:
            layout = None
        if layout is None:
            return [self._path] if os.path.isdir(self._path) else []
        branches = os.path.join(layout.common_dir, "refs", "heads")
        wanted = [
            layout.git_dir,
            layout.common_dir,
            os.path.join(layout.common_dir, "reftable"),
            branches,
        ]
        for part in (self._branch or "").split("/")[:-1]:
            branches = os.path.join(branches, part)
            wanted.append(branches)
        return [path for path in dict.fromkeys(wanted) if os.path.isdir(path)]

    def _located(self) -> Layout:
        try:
            layout = locate(self._path)
        except OSError as exc:
            raise SourceError(f"reading {self._path}") from exc
        if layout is None:
            raise SourceError(_not_a_repository(self._path).reason)
        return layout

    def _view(self, layout: Layout, object_id: str) -> ObjectView:
        objects_dir, alternate = layout.objects_dir, None
        if self._quarantine and self._quarantine.startswith(os.path.join(os.path.realpath(objects_dir), "")):
            objects_dir, alternate = self._quarantine, objects_dir
        return ObjectView(
            git_dir=self._empty.path(object_format_of(object_id)),
            objects_dir=objects_dir,
            shallow_file=layout.shallow_file,
            alternate=alternate,
        )


def _check_ids(*commits: str) -> None:
    for commit in commits:
        if not _FULL_ID.fullmatch(commit):
            raise SourceError(f"comparing commits: {commit!a} is not a full commit id")


def _ask_git(layout: Layout, name: str) -> Reading[str]:
    """The object that a ref or a short id names."""
    args = ["rev-parse", "--verify", "-q", "--end-of-options", name]
    answer = run_git(layout.git_dir, args, timeout_s=_REF_TIMEOUT_S)
    if answer.code == 0 and _FULL_ID.fullmatch(found := answer.stdout.decode("ascii", "replace").strip()):
        return Ok(found)
    if answer.complaint:
        return unavailable(f"{name} of {layout.git_dir} cannot be read: {answer.complaint}")
    return Absent()


def _write_tree(writer: TreeWriter, view: ObjectView, commit: str) -> None:
    reader = ObjectReader(view)
    try:
        for leaf in list_tree(reader, commit):
            _write_leaf(writer, reader, leaf)
        writer.finish()
    finally:
        reader.close()


def _write_leaf(writer: TreeWriter, reader: ObjectReader, leaf: TreeEntry) -> None:
    if leaf.mode == SUBMODULE:
        writer.add_directory(leaf.path)
    elif leaf.mode == SYMLINK:
        writer.add_link(leaf.path, reader.read([leaf.object_id])[leaf.object_id])
    else:
        is_executable = leaf.mode == EXECUTABLE
        writer.add_file(leaf.path, lambda fd: reader.copy(leaf.object_id, fd), executable=is_executable)


# --- sentences ------------------------------------------------------------------------------------


def _not_a_repository(path: str) -> Unavailable:
    return unavailable(f"{path} is not the top of a git repository; run git init, or name another with --source")


def _detached(layout: Layout) -> Unavailable:
    where = layout.work_tree or layout.git_dir
    return unsettled(f"HEAD is detached in {where}; go back with git switch <branch>")


def _no_branch(layout: Layout, branch: str, *, is_unborn: bool) -> Unavailable:
    where = layout.work_tree or layout.git_dir
    if is_unborn:
        return unavailable(f"{branch} of {where} has no commit yet; commit the manifests first")
    return unavailable(f"there is no branch {branch} in {where}; make it, or follow another one with 'ref'")
