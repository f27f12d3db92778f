"""A commit that makes files as an older revision has them, in a work tree, as the person at the terminal would.

It is the person's own git: hooks run, and commits are signed where they have it so. What stands in the way is a
sentence; a work tree with changes is left alone, and one in which the commit fails is put back.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence

from reconciler.errors import SourceError
from reconciler.source.git import GitAnswer, run_as_person
from reconciler.source.layout import locate, operation_in_progress, read_head

_MOST_NAMED = 5
_PERSON = re.compile(r"(?P<name>[^<>]+) <(?P<email>[^<>\s]+)>")


def find_obstacle(path: str, branch: str, to: str, files: Sequence[str]) -> str:
    """Why no such commit is to be made in the repository at `path`; empty where nothing is in the way.

    `branch` is the one that it belongs on, `files` what it is about, `.` for everything. Raises SourceError.
    """
    try:
        layout = locate(path)
        head = read_head(layout) if layout is not None else None
    except OSError as exc:
        raise SourceError(f"reading {path}") from exc
    if layout is None or head is None:
        return f"{path} is no git repository"
    if layout.work_tree is None:
        return f"{path} is bare, so that it has no work tree to commit in"
    if operation := operation_in_progress(layout):
        return operation
    if head.branch != branch:
        return f"{path} is not on the branch {branch} that the hub follows"
    if changed := _lines(path, "status", "--porcelain", "--untracked-files=no"):
        names = [line[3:] for line in changed]
        return f"{path} has changes that are not committed: {_name(names)}"
    added = _lines(path, "diff", "--no-renames", "--name-only", "--diff-filter=A", "HEAD", to, "--", *files)
    if in_the_way := [name for name in added if os.path.lexists(os.path.join(path, name))]:
        return f"{path} has files that git does not know, where {to[:12]} has others: {_name(in_the_way)}"
    return ""


def make_revert(path: str, to: str, files: Sequence[str], message: str, person: str) -> str:
    """The id of the commit; empty where all is as `to` says already. `person` is `Ada <ada@example.org>`, or a name.

    Raises SourceError, with the work tree as it was.
    """
    _git(path, "restore", f"--source={to}", "--staged", "--worktree", "--", *files)
    if run_as_person(path, ["diff", "--cached", "--quiet"]).code == 0:
        return ""
    answer = run_as_person(path, ["commit", "--quiet", "-m", message], env=_identity(path, person))
    if answer.code != 0:
        _git(path, "restore", "--source=HEAD", "--staged", "--worktree", "--", *files)
        raise SourceError(f"committing in {path}: {answer.complaint or 'git commit failed'}")
    return _git(path, "rev-parse", "HEAD").stdout.decode().strip()


def show_commands(branch: str, to: str, files: Sequence[str], message: str) -> Sequence[str]:
    """What a person types where the commit cannot be made for them."""
    return (
        f"git switch {branch}",
        f"git restore --source={to} --staged --worktree -- {shlex.join(files)}",
        f"git commit -m {shlex.quote(message)}",
    )


def _identity(path: str, person: str) -> Mapping[str, str]:
    """Author is whoever asks; committer is whom git is set up for, or else the same."""
    known = run_as_person(path, ["config", "user.email"])
    email = known.stdout.decode("utf-8", "replace").strip() if known.code == 0 else ""
    match = _PERSON.fullmatch(person)
    name, address = (match["name"], match["email"]) if match else (person, email or f"{person.split(' ')[0]}@localhost")
    author = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": address}
    return author if email else {**author, "GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": address}


def _name(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_MOST_NAMED]) + (", …" if len(paths) > _MOST_NAMED else "")


def _lines(path: str, *args: str) -> Sequence[str]:
    return _git(path, *args).stdout.decode("utf-8", "replace").splitlines()


def _git(path: str, *args: str) -> GitAnswer:
    answer = run_as_person(path, args, env={"GIT_LITERAL_PATHSPECS": "1"})
    if answer.code != 0:
        raise SourceError(f"running git {args[0]} in {path}: {answer.complaint or 'it failed'}")
    return answer
