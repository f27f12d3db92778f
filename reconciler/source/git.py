"""Running git so that a repository cannot make it run anything.

Every process gets an absolute executable, no shell, an environment of its own, a time limit and its
own session (so that Ctrl-C in the terminal doesn't reach it). Three ways in:

- `run_git` works on a repository itself, configuration included. It is for reading refs only, which
  runs no program.
- `run_as_person` is what a person asks a command to do in their own repository.
- `ObjectView` reads objects through an empty repository of ours that borrows the other one's object
  directory (`GIT_OBJECT_DIRECTORY`). The repository's configuration, hooks, attributes, grafts,
  replace refs and promisor remotes are not switched off one by one; they are not there.

The ownership check (`safe.directory`) protects people who wander into a foreign directory from its
configuration. Here the operator names the directory, and its configuration is not obeyed; so each
process is told the git directory outright, which needs no exception. Alternates are honoured: they
are local files that no commit can bring along.
"""

import functools
import hashlib
import os
import select
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.errors import SourceError
from reconciler.source.folder import write_all

_SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin")
OPTIONS = (
    "--no-pager",
    "--no-replace-objects",
    "--literal-pathspecs",
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.attributesFile=/dev/null"),
    *("-c", "core.excludesFile=/dev/null"),
    *("-c", "protocol.allow=never"),
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
)
_CLOSED = {
    "LC_ALL": "C",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_GRAFT_FILE": "/dev/null/none",
    # An empty list forbids every transport, and no `protocol.<name>.allow` of a repository
    # overrides it.
    "GIT_ALLOW_PROTOCOL": "",
}
_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES")
_TIMEOUT_S = 60.0
# Requests for this many ids fit into the smallest pipe there is, so that writing them never waits
# for git to read, which may be waiting for us to read its answers.
_WINDOW = 50
_CHUNK_BYTES = 1 << 18


@functools.cache
def find_git() -> str:
    """The absolute path of git.

    Relative entries of PATH are ignored. Raises SourceError where there is none.
    """
    entries = [p for p in os.environ.get("PATH", "").split(":") if os.path.isabs(p)]
    found = shutil.which("git", path=":".join([*entries, *_SYSTEM_PATH]))
    if found is None:
        raise SourceError("looking for git: not installed; install the package 'git'")
    return found


def closed_environment(git_dir: str) -> dict[str, str]:
    """All that a git process of ours is told.

    Nothing of our own environment gets in, HOME included.
    """
    path = ":".join([os.path.dirname(find_git()), *_SYSTEM_PATH])
    return {**_CLOSED, "PATH": path, "GIT_DIR": git_dir}


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAnswer:
    """What a finished process said. `complaint` is its standard error, cut and made printable."""

    code: int
    stdout: bytes
    complaint: str


def run_git(
    git_dir: str,
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout_s: float = _TIMEOUT_S,
    owner: tuple[int, int] | None = None,
) -> GitAnswer:
    """Run to the end, whatever the exit code; as the user and group `owner`, where one is given.

    Raises SourceError if git can't be started or takes too long.
    """
    identity: dict[str, Any] = {"user": owner[0], "group": owner[1], "extra_groups": ()} if owner else {}
    try:
        done = subprocess.run(
            [find_git(), *OPTIONS, *args],
            env={**closed_environment(git_dir), **(env or {})},
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            cwd="/",
            start_new_session=True,
            **identity,
        )
    except subprocess.TimeoutExpired as exc:
        raise SourceError(f"running git {args[0]} in {git_dir}: no answer after {timeout_s:g} s") from exc
    except (OSError, ValueError) as exc:
        raise SourceError(f"running git {args[0]} in {git_dir}") from exc
    return GitAnswer(code=done.returncode, stdout=done.stdout, complaint=printable(done.stderr))


def run_as_person(path: str, args: Sequence[str], *, env: Mapping[str, str] | None = None) -> GitAnswer:
    """Run to the end in the directory `path` as the person at the terminal would, with all that is set up for them.

    For what a person asks for in their own repository, never for the hub. Raises SourceError if git can't be started
    or takes too long.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _PLACES}
    command = [find_git(), "-C", path, "--no-pager", *args]
    try:
        done = subprocess.run(
            command,
            env={**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise SourceError(f"running git {args[0]} in {path}: no answer after {_TIMEOUT_S:g} s") from exc
    except (OSError, ValueError) as exc:
        raise SourceError(f"running git {args[0]} in {path}") from exc
    return GitAnswer(code=done.returncode, stdout=done.stdout, complaint=printable(done.stderr))


def printable(stderr: bytes) -> str:
    """What a process complained of, on one line."""
    text = " / ".join(stderr[:2000].decode("utf-8", "replace").replace("\r", "").split("\n")).strip(" /")
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


# --- objects --------------------------------------------------------------------------------------


class EmptyRepository:
    """Empty bare repositories, one per object format, in a temporary directory.

    It goes away with this object.
    """

    def __init__(self) -> None:
        self._root = tempfile.mkdtemp(prefix="reconciler-git-")
        self.close = weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)

    def path(self, object_format: str) -> str:
        """The git directory for `sha1` or `sha256`.

        Made again if a cleaner of temporary files took it. Raises SourceError.
        """
        path = os.path.join(self._root, object_format)
        head, refs = os.path.join(path, "HEAD"), os.path.join(path, "refs")
        if os.path.isfile(head) and os.path.isdir(refs):
            return path
        try:
            os.makedirs(refs, mode=0o700, exist_ok=True)
            write_git_config(path, object_format, bare=True)
            _write(head, "ref: refs/heads/none\n")
        except OSError as exc:
            raise SourceError(f"making an empty repository in {self._root}") from exc
        return path


def write_git_config(git_dir: str, object_format: str, *, bare: bool) -> None:
    """All the configuration of a repository of ours: no remote, no credentials, no housekeeping."""
    is_sha1 = object_format == "sha1"
    lines = [
        "[core]",
        f"repositoryformatversion = {0 if is_sha1 else 1}",
        f"bare = {str(bare).lower()}",
        "filemode = true",
        *([] if is_sha1 else ["[extensions]", f"objectFormat = {object_format}"]),
        *("[gc]", "auto = 0"),
        *("[maintenance]", "auto = false"),
    ]
    _write(os.path.join(git_dir, "config"), "\n".join([*lines, ""]))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def object_format_of(object_id: str) -> str:
    """`sha1` or `sha256`, by the length of a full hexadecimal id."""
    return "sha256" if len(object_id) == 64 else "sha1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectView:
    """One repository's objects, and nothing else of it. `git_dir` is a repository of ours.

    `alternate` is a second directory of objects, for what is not in the first.
    """

    git_dir: str
    objects_dir: str
    shallow_file: str | None = None
    alternate: str | None = None

    @property
    def env(self) -> dict[str, str]:
        """What points a git process at the objects."""
        shallow = {"GIT_SHALLOW_FILE": self.shallow_file} if self.shallow_file else {}
        second = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(self.alternate)} if self.alternate else {}
        return {"GIT_OBJECT_DIRECTORY": self.objects_dir, **second, **shallow}

    def run(
        self,
        *args: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> GitAnswer:
        """See `run_git`."""
        extra = {**self.env, **(env or {})}
        return run_git(self.git_dir, args, env=extra, stdin=stdin, timeout_s=timeout_s)

    def cat_file(self, timeout_s: float = _TIMEOUT_S) -> "CatFile":
        """Start a process that reads objects; close it."""
        return CatFile(self, timeout_s)


def _quoted(path: str) -> str:
    """One path in git's list of them, whatever is in its name."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


class CatFile:
    """One long-lived `git cat-file --batch-command`.

    For one thread at a time. `timeout_s` is how long it may say nothing. All methods raise
    SourceError: an object that is missing, of another type, corrupt, or a process that is gone.
    Contents are checked against their ids, so that equal ids really mean equal bytes.
    """

    def __init__(self, view: ObjectView, timeout_s: float = _TIMEOUT_S) -> None:
        self._where = view.objects_dir
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        try:
            process = subprocess.Popen(
                [find_git(), *OPTIONS, "cat-file", "--batch-command"],
                env={**closed_environment(view.git_dir), **view.env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                start_new_session=True,
            )
        except OSError as exc:
            raise SourceError(f"starting git cat-file for {self._where}") from exc
        # Ends the process, once; also when this object goes away unclosed.
        self.close = weakref.finalize(self, _end, process)
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)

    def read(
        self, object_ids: Sequence[str], *, kind: str = "blob", max_bytes: int = _CHUNK_BYTES * 4
    ) -> dict[str, bytes]:
        """Contents by id, in the order asked.

        An object of more than `max_bytes` is refused before it is read.
        """
        contents: dict[str, bytes] = {}
        for window in _windows(object_ids):
            self._ask("contents", window)
            for object_id in window:
                contents[object_id] = self._content(object_id, kind, max_bytes)
        return contents

    def sizes(self, object_ids: Sequence[str]) -> dict[str, int]:
        """Bytes of blobs by id; no content is read."""
        size_by_id: dict[str, int] = {}
        for window in _windows(object_ids):
            self._ask("info", window)
            for object_id in window:
                size_by_id[object_id] = self._header(object_id, "blob")
        return size_by_id

    def find(self, object_id: str, kind: str, *, max_bytes: int = _CHUNK_BYTES * 4) -> bytes | None:
        """The content of one object, or None where there is none: read, and not there.

        Ends the process.
        """
        self._ask("contents", [object_id])
        try:
            if self._peek_header().endswith(b" missing\n"):
                self._stdin.close()
                if complaint := printable(self._stderr.read()):
                    raise self._broken(complaint)
                return None
            return self._content(object_id, kind, max_bytes)
        finally:
            self.close()

    def copy(self, object_id: str, fd: int) -> None:
        """Write one blob, of whatever size, to a file descriptor.

        Raises OSError where that can't be written to.
        """
        self._ask("contents", [object_id])
        left = size_bytes = self._header(object_id, "blob")
        check = start_object_hash(object_format_of(object_id), "blob", size_bytes)
        while left:
            chunk = self._take_some(left)
            check.update(chunk)
            write_all(fd, chunk)
            left -= len(chunk)
        self._take(1)
        self._compare(object_id, check.hexdigest())

    def _ask(self, command: str, object_ids: Sequence[str]) -> None:
        request = "".join(f"{command} {object_id}\n" for object_id in object_ids).encode("ascii")
        try:
            self._stdin.write(request)
        except (OSError, ValueError) as exc:
            raise self._broken("git cat-file is gone") from exc

    def _content(self, object_id: str, kind: str, max_bytes: int) -> bytes:
        size_bytes = self._header(object_id, kind)
        if size_bytes > max_bytes:
            raise self._broken(f"{kind} {object_id} has {size_bytes} bytes, more than {max_bytes}")
        content = self._take(size_bytes)
        self._take(1)
        check = start_object_hash(object_format_of(object_id), kind, size_bytes)
        check.update(content)
        self._compare(object_id, check.hexdigest())
        return content

    def _peek_header(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._fill()
        return bytes(self._buffer[: end + 1])

    def _header(self, object_id: str, kind: str) -> int:
        fields = self._take(len(self._peek_header())).decode("utf-8", "replace").split()
        if len(fields) == 3 and fields[:2] == [object_id, kind]:
            return int(fields[2])
        if fields[-1:] == ["missing"]:
            raise self._broken(f"object {object_id} is missing; a partial clone or a damaged repository (git fsck)")
        raise self._broken(f"object {object_id} is not a {kind}: git says {' '.join(fields)!r}")

    def _take(self, size_bytes: int) -> bytes:
        while len(self._buffer) < size_bytes:
            self._fill()
        taken = bytes(memoryview(self._buffer)[:size_bytes])
        del self._buffer[:size_bytes]
        return taken

    def _take_some(self, at_most: int) -> bytes:
        if not self._buffer:
            self._fill()
        return self._take(min(at_most, len(self._buffer), _CHUNK_BYTES))

    def _fill(self) -> None:
        try:
            if not self._poll.poll(self._timeout_s * 1000):
                raise self._broken(f"git cat-file said nothing for {self._timeout_s:g} s")
            chunk = os.read(self._stdout.fileno(), _CHUNK_BYTES)
        except (OSError, ValueError) as exc:
            raise self._broken("git cat-file is gone") from exc
        if not chunk:
            complaint = printable(self._stderr.read()) or "git cat-file ended"
            raise self._broken(f"{complaint}; if it is damaged, git fsck says where")
        self._buffer += chunk

    def _compare(self, object_id: str, found: str) -> None:
        if found != object_id:
            raise self._broken(f"object {object_id} is corrupt: its content has the id {found} (git fsck)")

    def _broken(self, why: str) -> SourceError:
        # What is left in the pipe belongs to no question any more.
        self.close()
        return SourceError(f"reading objects of {self._where}: {why}")


def _windows(object_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(object_ids), _WINDOW):
        yield object_ids[start : start + _WINDOW]


def _end(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()
    process.kill()
    process.wait()


def start_object_hash(object_format: str, kind: str, size_bytes: int) -> "hashlib._Hash":
    """The hash that, fed with the content, gives git's id of the object."""
    check = hashlib.new(object_format, usedforsecurity=False)
    check.update(f"{kind} {size_bytes}\0".encode())
    return check
