"""Git notes of ours: texts at commits, below `refs/notes/`, in a repository on this host.

Only objects and that one ref are written: no work tree, no index, no HEAD, no branch. No hook runs, and no program that
the repository's configuration names. Where the hub is root and the repository is somebody's, git runs as its owner, so
that nothing is left there that its owner cannot handle.
"""

import os
import tempfile
from collections.abc import Mapping

from reconciler.errors import SourceError
from reconciler.source.git import (
    EmptyRepository,
    GitAnswer,
    ObjectView,
    object_format_of,
    run_git,
    write_git_config,
)
from reconciler.source.layout import Layout, locate
from reconciler.source.objects import ObjectReader
from reconciler.source.transfer import Remote

_TIMEOUT_S = 30.0
_WRITER = ("reconciler", "reconciler@localhost")
_MAX_BYTES = 64 * 1024


def notes_ref(fleet: str) -> str:
    """Where the notes of a fleet are; `git log --notes=reconciler/<fleet>` shows them."""
    return f"refs/notes/reconciler/{fleet}"


def is_repository(path: str) -> bool:
    """Whether notes can be kept there, as far as can be seen."""
    try:
        return locate(path) is not None
    except OSError:
        return False


class Notes:
    """The notes below one ref."""

    def __init__(self, path: str, ref: str, *, is_ours: bool = False) -> None:
        """A repository that `is_ours` is made when the first note is written; it need not have the commits."""
        self._path, self._ref, self._is_ours = path, ref, is_ours

    def write(self, commit: str, text: str) -> None:
        """Make `text` the note of a commit, in the place of the one that was there; the same text changes nothing.

        Raises SourceError.
        """
        if self._is_ours and not is_repository(self._path):
            _make(self._path, object_format_of(commit))
        layout = self._located()
        if (self._read_one(layout, commit) or b"").strip() == text.strip().encode():
            return
        who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _identity().items()}
        answer = run_git(
            layout.git_dir,
            ["notes", f"--ref={self._ref}", "add", "--force", "--file=-", commit],
            env=who,
            stdin=text.encode(),
            timeout_s=_TIMEOUT_S,
            owner=_owner(layout.objects_dir),
        )
        _check(answer, f"writing the note of {commit[:12]} in {self._path}")

    def read_all(self) -> Mapping[str, str]:
        """Texts by commit. Raises SourceError."""
        if self._is_ours and not is_repository(self._path):
            return {}
        layout = self._located()
        listed = run_git(layout.git_dir, ["notes", f"--ref={self._ref}", "list"], timeout_s=_TIMEOUT_S)
        _check(listed, f"listing the notes {self._ref} of {self._path}")
        pairs = (line.split() for line in listed.stdout.decode("ascii").splitlines())
        blob_by_commit = {commit: blob for blob, commit in pairs}
        if not blob_by_commit:
            return {}
        blobs = list(dict.fromkeys(blob_by_commit.values()))
        empty = EmptyRepository()
        git_dir = empty.path(object_format_of(blobs[0]))
        reader = ObjectReader(ObjectView(git_dir=git_dir, objects_dir=layout.objects_dir))
        try:
            texts = reader.read(blobs, max_bytes=_MAX_BYTES)
        finally:
            reader.close()
            empty.close()
        return {commit: texts[blob].decode("utf-8", "replace") for commit, blob in blob_by_commit.items()}

    def push(self, remote: Remote) -> None:
        """Send them all to another repository, only forward; nothing where there are none. Raises SourceError.

        It is sent from an empty repository that borrows the objects, so that nobody else's settings say how.
        """
        if self._is_ours and not is_repository(self._path):
            return
        layout = self._located()
        tip = run_git(layout.git_dir, ["rev-parse", "--verify", "-q", self._ref]).stdout.decode("ascii").strip()
        if not tip:
            return
        with tempfile.TemporaryDirectory(prefix="reconciler-push-") as folder:
            _make(folder, object_format_of(tip), borrowing=layout.objects_dir)
            remote.push(folder, f"{tip}:{self._ref}")

    def _read_one(self, layout: Layout, commit: str) -> bytes | None:
        answer = run_git(layout.git_dir, ["notes", f"--ref={self._ref}", "show", commit], timeout_s=_TIMEOUT_S)
        return answer.stdout if answer.code == 0 else None

    def _located(self) -> Layout:
        try:
            layout = locate(self._path)
        except OSError as exc:
            raise SourceError(f"reading {self._path}") from exc
        if layout is None:
            raise SourceError(f"{self._path} is not a git repository; there is no place for notes")
        return layout


def _make(path: str, object_format: str, borrowing: str = "") -> None:
    """An empty bare repository; `borrowing` is the object directory of another one. Raises SourceError."""
    try:
        for folder in ("refs", "objects/info"):
            os.makedirs(os.path.join(path, folder), mode=0o700, exist_ok=True)
        write_git_config(path, object_format, bare=True)
        if borrowing:
            _write(os.path.join(path, "objects/info/alternates"), f"{borrowing}\n")
        # Last: only then is it a repository.
        _write(os.path.join(path, "HEAD"), "ref: refs/heads/none\n")
    except OSError as exc:
        raise SourceError(f"making the repository {path}") from exc


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def _identity() -> Mapping[str, str]:
    return {"NAME": _WRITER[0], "EMAIL": _WRITER[1]}


def _owner(objects_dir: str) -> tuple[int, int] | None:
    """Whom to run as: nobody else, unless we are root and it is somebody else's. Raises SourceError."""
    try:
        status = os.stat(objects_dir)
    except OSError as exc:
        raise SourceError(f"reading {objects_dir}") from exc
    return (status.st_uid, status.st_gid) if os.geteuid() == 0 and status.st_uid != 0 else None


def _check(answer: GitAnswer, what: str) -> None:
    if answer.code != 0:
        raise SourceError(f"{what}: {answer.complaint or 'git failed'}")
