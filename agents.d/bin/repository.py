"""The workspace as its scripts read it: files of the snapshot, and the history where there is one.

A workspace directory comes in, values come out; nothing is written. Git is asked only with an
explicit directory, so that neither a repository further up nor the settings of the account change
an answer.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

MAX_TEXT_BYTES = 2 * 2**20
NOT_SOURCE = frozenset({".git", ".reconciler", ".venv", "__pycache__", "node_modules"})

_HEADER = "\x01"
_FIELD = "\x1f"
_FORMAT = f"--format={_HEADER}%H{_FIELD}%at{_FIELD}%aN{_FIELD}%s"


class WorkError(Exception):
    """The work cannot be done. The message is for the person who reads the task's record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchedFile:
    """One file in one commit. Lines are 0 for binary files."""

    path: str
    added: int
    deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit that is not a merge. `time` is the author's, in UTC."""

    id: str
    time: datetime
    author: str
    subject: str
    files: tuple[TouchedFile, ...] = ()


def read_git(workspace: Path, *arguments: str) -> str:
    """What a git command prints. Raises WorkError with git's own first line."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "GIT_DIR": str(workspace / ".git"),
        "GIT_WORK_TREE": str(workspace),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
    }
    try:
        done = subprocess.run(["git", *arguments], cwd=workspace, env=env, capture_output=True)
    except FileNotFoundError:
        raise WorkError("git is not installed here; use an image that carries it") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise WorkError(f"git {arguments[0]} in {workspace}: {said[0]}")
    return done.stdout.decode(errors="replace")


def has_history(workspace: Path) -> bool:
    """Whether there is at least one commit to read."""
    try:
        read_git(workspace, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except WorkError:
        return False
    return True


def is_shallow(workspace: Path) -> bool:
    """Whether the history was cut off, so that its oldest commit seems to add everything."""
    return read_git(workspace, "rev-parse", "--is-shallow-repository").strip() == "true"


def read_revision(workspace: Path) -> str | None:
    """The commit id; without history the directory's name, where that looks like one; else None."""
    if has_history(workspace):
        return read_git(workspace, "rev-parse", "HEAD").strip()
    return workspace.name if re.fullmatch(r"[0-9a-f]{7,64}", workspace.name) else None


def read_commits(workspace: Path, *selection: str) -> tuple[Commit, ...]:
    """Commits that HEAD reaches, newest first, narrowed by options of `git log`.

    Raises WorkError, also where there is no history.
    """
    if not has_history(workspace):
        raise WorkError(f"{workspace} has no git history; the agent needs workspace.history: true")
    shape = ("-z", "--numstat", "--no-renames", "--no-merges", _FORMAT)
    log = read_git(workspace, "log", *shape, *selection, "HEAD", "--")
    return tuple(_parse_log(log))


def list_files(workspace: Path) -> tuple[str, ...]:
    """Regular files of the snapshot by path; symbolic links and unprintable names are left out."""
    if has_history(workspace):
        listed = read_git(workspace, "ls-tree", "-r", "-z", "--full-tree", "HEAD").split("\0")
        paths = [entry.partition("\t")[2] for entry in listed if entry.startswith("100")]
    else:
        paths = list(_walk(workspace))
    return tuple(sorted(p for p in paths if _is_plain(workspace / p)))


def read_text(workspace: Path, path: str) -> str | None:
    """The text of a file; None where it is binary or larger than 2 MiB."""
    file = workspace / path
    if file.stat().st_size > MAX_TEXT_BYTES:
        return None
    content = file.read_bytes()
    return None if b"\0" in content else content.decode("utf-8", errors="replace")


def _parse_log(log: str) -> Iterator[Commit]:
    header, files = "", list[TouchedFile]()
    for token in log.split("\0"):
        entry = token.removeprefix("\n")
        if entry.startswith(_HEADER):
            if header:
                yield _make_commit(header, files)
            header, files = entry.removeprefix(_HEADER), []
        elif entry:
            added, deleted, path = entry.split("\t", 2)
            files.append(TouchedFile(path=path, added=_lines(added), deleted=_lines(deleted)))
    if header:
        yield _make_commit(header, files)


def _make_commit(header: str, files: list[TouchedFile]) -> Commit:
    revision, seconds, author, subject = header.split(_FIELD, 3)
    time = datetime.fromtimestamp(int(seconds), UTC)
    return Commit(id=revision, time=time, author=author, subject=subject, files=tuple(files))


def _lines(number: str) -> int:
    return 0 if number == "-" else int(number)


def _walk(workspace: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(workspace):
        folders[:] = [f for f in folders if f not in NOT_SOURCE]
        here = Path(folder).relative_to(workspace)
        yield from ((here / name).as_posix() for name in names)


def _is_plain(file: Path) -> bool:
    if not str(file).isprintable():
        return False
    return file.is_file() and not file.is_symlink()
