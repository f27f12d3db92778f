"""A bare repository of ours that holds what was last fetched of a remote one.

`refs/remote/tip` and `refs/tags/*` are what the remote says, `refs/heads/followed` is the commit that a `Ref` means;
a branch has its own name here, too, so that people find it under that.
Fetched is with force, and never merged. What was there before stays there, also when nothing names it any more, so that
the revision in force survives a forced push. A mirror that is damaged is made anew beside the old one, and takes its
place by rename.
"""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

from reconciler.core.ref import Ref
from reconciler.core.semver import newest_within, parse_range
from reconciler.errors import SourceError
from reconciler.source.git import object_format_of, run_git, write_git_config
from reconciler.source.layout import locate
from reconciler.source.signed import FollowedTag
from reconciler.source.transfer import SERVING, SERVING_FILE, Remote

FOLLOWED = "followed"
_FOLLOWED = f"refs/heads/{FOLLOWED}"
_TIP = "refs/remote/tip"
_ALL_TAGS = "+refs/tags/*:refs/tags/*"
_ALL_BRANCHES = "+refs/heads/*:refs/remote/heads/*"
_WHOLE = 2**31 - 1
"""What git takes for the depth of a whole history."""
_FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NEW, _OLD = ".new-", ".old-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """`path` is the git directory. One thread of one process changes it; any may read.

    `depth`: how many commits of history are fetched at first. Beyond `max_packs` packs are put together.
    """

    path: str
    remote: Remote
    ref: Ref
    depth: int | None = None
    max_packs: int = 25

    @property
    def is_there(self) -> bool:
        """Whether something was fetched at some time."""
        return self.followed() is not None

    def followed(self) -> str | None:
        """The commit that is followed; None where there is none, or the mirror cannot be read."""
        with suppress(OSError, SourceError):
            if locate(self.path) is not None:
                return self._resolve(self.path, _FOLLOWED)
        return None

    def tag(self) -> FollowedTag | None:
        """The tag that is followed, as it was fetched; None where the ref is no tag. Raises SourceError."""
        if self.ref.kind not in ("tag", "semver"):
            return None
        ref = _TIP if self.ref.kind == "tag" else self._newest_tag(self.path)
        name = self.ref.name if self.ref.kind == "tag" else ref.removeprefix("refs/tags/")
        found = self._resolve(self.path, ref)
        if found is None:
            raise SourceError(f"looking at tag {name!r} of {self.remote.origin.url}: it is gone from the mirror")
        return FollowedTag(name=name, id=found)

    def tidy(self) -> None:
        """Remove what a killed process left behind. Raises SourceError."""
        try:
            parent, name = os.path.split(self.path)
            for entry in os.listdir(parent) if os.path.isdir(parent) else ():
                if entry.startswith((f"{name}{_NEW}", f"{name}{_OLD}")):
                    _remove(os.path.join(parent, entry))
            for folder, _folders, files in os.walk(self.path):
                for file in files:
                    if file.endswith(".lock") or file.startswith("tmp_"):
                        os.unlink(os.path.join(folder, file))
        except OSError as exc:
            raise SourceError(f"tidying the mirror {self.path}") from exc

    def update(self) -> str:
        """Fetch, and follow what the ref means now; returns the commit. Raises SourceError: nothing changed then."""
        if not self.is_there:
            return self.rebuild()
        return self._fetch_into(self.path)

    def rebuild(self, swapping: AbstractContextManager[object] = nullcontext()) -> str:  # noqa: B008 - it is empty
        """Fetch everything anew; `swapping` is held while it takes its place.

        Raises SourceError: the mirror is as it was then.
        """
        new = f"{self.path}{_NEW}{uuid.uuid4().hex}"
        try:
            self._make(new)
            commit = self._fetch_into(new)
            with swapping:
                self._swap_in(new)
        except OSError as exc:
            raise SourceError(f"making the mirror {self.path}") from exc
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return commit

    def list_refs(self) -> dict[str, str]:
        """What the remote has now: object ids by name of ref. Raises SourceError."""
        with tempfile.TemporaryDirectory(prefix="reconciler-git-") as folder:
            _write(folder, SERVING_FILE, SERVING)
            return self.remote.list_refs(folder)

    def is_offered(self) -> bool:
        """Whether the remote repository answers and has what is followed, whatever became of the mirror."""
        try:
            refs = self.list_refs()
        except SourceError:
            return False
        wanted = {"branch": f"refs/heads/{self.ref.name}", "tag": f"refs/tags/{self.ref.name}"}.get(self.ref.kind)
        return wanted is None or wanted in refs

    def _make(self, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
        for folder in ("objects/pack", "objects/info", "refs/heads", "refs/tags", "refs/remote"):
            os.makedirs(os.path.join(path, folder))
        write_git_config(path, "sha1", bare=True)
        _write(path, "HEAD", f"ref: {_FOLLOWED}\n")
        _write(path, SERVING_FILE, SERVING)
        if (object_format := self._object_format(path)) != "sha1":
            write_git_config(path, object_format, bare=True)

    def _object_format(self, path: str) -> str:
        if self.ref.kind == "commit":
            return object_format_of(self.ref.name)
        ids = self.remote.list_refs(path, "refs/heads/*", "refs/tags/*").values()
        return object_format_of(next(iter(ids), ""))

    def _fetch_into(self, path: str) -> str:
        if self.ref.kind != "commit" or self._commit(path, self.ref.name) is None:
            self._fetch(path)
        commit = self._meant(path)
        if self._resolve(path, _FOLLOWED) != commit:
            self._run(path, "update-ref", _FOLLOWED, commit)
        self._name_branch(path)
        self._pack_if_many(path)
        return commit

    def _fetch(self, path: str) -> None:
        depth = self._depth_now(path)
        try:
            self.remote.fetch(path, self._refspecs(), depth=depth)
        except SourceError:
            if self.ref.kind != "commit":
                raise
            # Not every server gives a commit by its id.
            self.remote.fetch(path, (_ALL_BRANCHES, _ALL_TAGS))

    def _depth_now(self, path: str) -> int | None:
        """A cut-off history grows from where it was cut: to cut it again would hide what follows from what."""
        if self.depth is None:
            return _WHOLE if os.path.exists(os.path.join(path, "shallow")) else None
        return self.depth if self._resolve(path, _TIP) is None else None

    def _refspecs(self) -> Sequence[str]:
        tags = () if self.depth is not None else (_ALL_TAGS,)
        match self.ref.kind:
            case "branch":
                return (f"+refs/heads/{self.ref.name}:{_TIP}", *tags)
            case "tag":
                return (f"+refs/tags/{self.ref.name}:{_TIP}", *tags)
            case "semver":
                return (_ALL_TAGS,)
            case _:
                return (f"+{self.ref.name}:{_TIP}", *tags)

    def _meant(self, path: str) -> str:
        """The commit that the ref means. Raises SourceError where it means none."""
        name = {"branch": _TIP, "tag": _TIP, "commit": self.ref.name}.get(self.ref.kind) or self._newest_tag(path)
        commit = self._commit(path, name)
        if commit is None:
            raise SourceError(f"following {self.ref} of {self.remote.origin.url}: it is no commit")
        return commit

    def _name_branch(self, path: str) -> None:
        """Have the followed branch under its name, and no other one."""
        wanted = {_FOLLOWED}
        if self.ref.kind == "branch" and self.ref.name.partition("/")[0] != FOLLOWED:
            wanted.add(f"refs/heads/{self.ref.name}")
        there = set(self._run(path, "for-each-ref", "--format=%(refname)", "refs/heads").splitlines())
        for name in sorted(there - wanted):
            self._run(path, "update-ref", "--no-deref", "-d", name)
        for name in wanted - there:
            self._run(path, "symbolic-ref", name, _FOLLOWED)

    def _newest_tag(self, path: str) -> str:
        listed = self._run(path, "for-each-ref", "--format=%(refname)", "refs/tags")
        names = [name.removeprefix("refs/tags/") for name in listed.splitlines()]
        newest = newest_within(parse_range(self.ref.name), names)
        if newest is None:
            url = self.remote.origin.url
            raise SourceError(f"following {self.ref} of {url}: none of its {len(names)} tags is a version within it")
        return f"refs/tags/{newest}"

    def _commit(self, path: str, name: str) -> str | None:
        return self._resolve(path, f"{name}^{{commit}}")

    def _resolve(self, path: str, name: str) -> str | None:
        answer = run_git(path, ["rev-parse", "--verify", "-q", "--end-of-options", name])
        found = answer.stdout.decode("ascii", "replace").strip()
        return found if answer.code == 0 and _FULL_ID.fullmatch(found) else None

    def _pack_if_many(self, path: str) -> None:
        """Each fetch leaves a pack. All objects are kept, also those that nothing names."""
        packs = [name for name in os.listdir(os.path.join(path, "objects", "pack")) if name.endswith(".pack")]
        if len(packs) > self.max_packs:
            self._run(path, "repack", "--geometric=2", "-d", "-q")

    def _swap_in(self, new: str) -> None:
        old = f"{self.path}{_OLD}{uuid.uuid4().hex}"
        if os.path.lexists(self.path):
            os.rename(self.path, old)
        os.rename(new, self.path)
        _remove(old)

    def _run(self, path: str, *args: str) -> str:
        answer = run_git(path, args, timeout_s=600.0)
        if answer.code != 0:
            raise SourceError(f"changing the mirror {path}: {answer.complaint or f'git {args[0]} failed'}")
        return answer.stdout.decode("utf-8", "replace")


def _remove(path: str) -> None:
    """Whatever is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _write(path: str, name: str, text: str) -> None:
    with open(os.path.join(path, name), "w", encoding="utf-8") as out:
        out.write(text)
