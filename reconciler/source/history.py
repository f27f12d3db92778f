"""A `.git` limited to what one commit reaches, so that agents can read the history they work on.

A commit of one repository comes in; a `.git` directory with one pack, a detached HEAD, the tags on
that history and an index goes out. No other branch, no remote, no credentials, no hooks, no setting
of the original. Where the original is shallow, so is this.
"""

import os
from dataclasses import replace

from reconciler.errors import SourceError
from reconciler.source.git import GitAnswer, ObjectView, object_format_of, run_git, write_git_config

_PACK_TIMEOUT_S = 600.0


def write_history(root: str, view: ObjectView, refs_git_dir: str, commit: str) -> None:
    """Make `root/.git` for the tree that already stands in `root`. Raises SourceError and OSError.

    `refs_git_dir` is the original's git directory, asked for its tags.
    """
    git_dir = os.path.join(root, ".git")
    for name in ("objects/pack", "objects/info", "refs/heads", "refs/tags"):
        os.makedirs(os.path.join(git_dir, name))
    write_git_config(git_dir, object_format_of(commit), bare=False)
    _write(git_dir, "HEAD", f"{commit}\n".encode())
    tags = _list_tags(refs_git_dir)
    _write(git_dir, "packed-refs", b"".join(tags))
    _pack(git_dir, replace(view, git_dir=git_dir), commit)

    own = ObjectView(git_dir=git_dir, objects_dir=os.path.join(git_dir, "objects"))
    _write_shallow(git_dir, view, own)
    _keep_known_tags(git_dir, own, tags)
    _write_index(root, replace(own, shallow_file=None), commit)


def _list_tags(git_dir: str) -> list[bytes]:
    answer = run_git(git_dir, ["for-each-ref", "--format=%(objectname) %(refname)", "refs/tags"])
    _check(answer, f"listing the tags of {git_dir}")
    return answer.stdout.splitlines(keepends=True)


def _pack(git_dir: str, view: ObjectView, commit: str) -> None:
    """`--include-tag` adds the annotated tags of packed commits; it finds them in the new
    repository's refs.
    """
    base = os.path.join(git_dir, "objects", "pack", "pack")
    answer = view.run(
        *("pack-objects", "--revs", "--include-tag", "--delta-base-offset", "--threads=1", "-q", base),
        stdin=f"{commit}\n".encode(),
        timeout_s=_PACK_TIMEOUT_S,
    )
    _check(answer, f"packing the history of {commit[:12]}")


def _write_shallow(git_dir: str, view: ObjectView, own: ObjectView) -> None:
    if view.shallow_file is None:
        return
    with open(view.shallow_file, "rb") as shallow:
        commits = shallow.read().split()
    kept = [c for c, known in zip(commits, _are_known(own, commits), strict=True) if known]
    if kept:
        _write(git_dir, "shallow", b"".join(c + b"\n" for c in kept))


def _keep_known_tags(git_dir: str, own: ObjectView, tags: list[bytes]) -> None:
    known = _are_known(own, [line.split(b" ")[0] for line in tags])
    kept = b"".join(line for line, is_known in zip(tags, known, strict=True) if is_known)
    _write(git_dir, "packed-refs", kept)


def _are_known(view: ObjectView, object_ids: list[bytes]) -> list[bool]:
    answer = view.run("cat-file", "--batch-check", stdin=b"".join(i + b"\n" for i in object_ids))
    _check(answer, "looking up objects of a checkout")
    return [not line.endswith(b" missing") for line in answer.stdout.splitlines()]


def _write_index(root: str, own: ObjectView, commit: str) -> None:
    _check(own.run("read-tree", commit), f"making the index of {commit[:12]}")
    # Exit code 1 says that a file differs from its blob (a link that was not made): no fault of the
    # index.
    own.run("update-index", "-q", "--refresh", env={"GIT_WORK_TREE": root})


def _check(answer: GitAnswer, what: str) -> None:
    if answer.code != 0:
        raise SourceError(f"{what}: {answer.complaint or 'git failed'}")


def _write(git_dir: str, name: str, content: bytes) -> None:
    with open(os.path.join(git_dir, name), "wb") as out:
        out.write(content)
