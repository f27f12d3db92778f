"""The only place where git speaks to another host, or to another repository of this one.

An `Origin`, what opens it, and a repository of ours come in; its refs, or new objects in ours, go out. Only the
transport of the address is allowed, so that no redirect, submodule or setting leads elsewhere. The whole session of
processes ends at the time limit. One fetch writes no file larger than `max_bytes`.

A secret is on no command line, in no environment and in no file of ours: git asks for it at a memory file of this
process's. Whatever a server says is shown without it.
"""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from reconciler.core.origin import Origin
from reconciler.errors import SourceError
from reconciler.settings_source import Credentials
from reconciler.source.git import OPTIONS, GitAnswer, closed_environment, find_git, printable

SERVING_FILE = "serving"
SERVING = "[safe]\n\tdirectory = *\n"
"""What the process that serves a `file://` repository is told: that the operator meant it, whoever owns it."""

TIMEOUT_S = 600.0
LIST_TIMEOUT_S = 60.0
_MAX_SECRET_BYTES = 64 * 1024
_MAX_ANSWER_BYTES = 64 * 2**20
_MAX_COMPLAINT_BYTES = 2**20
_SHOWN_BYTES = 1000
_COMMAND_TIMEOUT_S = 30.0
_BLOCK_BYTES = 512
# `ulimit -f` counts in blocks; the shell replaces itself.
_LIMITED = ("/bin/sh", "-c", 'ulimit -f "$0" && exec "$@"')
_CONFIG = (
    "http.followRedirects=false",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=30",
    "http.sslVerify=true",
    "core.bigFileThreshold=8m",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "fetch.writeCommitGraph=false",
    "credential.helper=",
    "core.askPass=",
)
_SSH = (
    *("-F", "/dev/null"),
    *("-o", "BatchMode=yes"),
    *("-o", "IdentitiesOnly=yes"),
    *("-o", "IdentityAgent=none"),
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "PermitLocalCommand=no"),
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
)


@dataclass(slots=True, kw_only=True)
class Remote:
    """A repository elsewhere, and how to speak to it. For one thread at a time; `stop` may come from another."""

    origin: Origin
    credentials: Credentials = field(default_factory=Credentials)
    max_bytes: int = 4 * 2**30
    ssh: str = "ssh"
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _is_stopped: bool = field(default=False, init=False)

    def list_refs(self, git_dir: str, *patterns: str) -> dict[str, str]:
        """Object ids by name of ref. Raises SourceError."""
        answer = self._run(git_dir, ["ls-remote", "--quiet", self.origin.url, *patterns], LIST_TIMEOUT_S)
        if answer.code != 0:
            raise SourceError(f"listing {self.origin.url}: {answer.complaint or 'git ls-remote failed'}")
        lines = (line.split("\t") for line in answer.stdout.decode("utf-8", "replace").splitlines())
        return {fields[1]: fields[0] for fields in lines if len(fields) == 2}

    def fetch(self, git_dir: str, refspecs: Sequence[str], *, depth: int | None = None) -> None:
        """Bring refs and what they reach into a repository of ours, as they are there now. Raises SourceError."""
        args = ["fetch", "--quiet", "--force", "--prune", "--no-tags", "--no-recurse-submodules", "--atomic"]
        args += ["--no-write-fetch-head", "--no-auto-maintenance", "--no-show-forced-updates"]
        args += [f"--depth={depth}"] if depth is not None else []
        answer = self._run(git_dir, [*args, "--end-of-options", self.origin.url, *refspecs], TIMEOUT_S)
        if answer.code != 0:
            raise SourceError(f"fetching {self.origin.url}: {self._explain(answer.complaint)}")

    def push(self, git_dir: str, refspec: str) -> None:
        """Send one ref of a repository of ours, only forward. Raises SourceError."""
        args = ["push", "--quiet", "--no-verify", "--no-signed", "--no-follow-tags", "--recurse-submodules=no"]
        answer = self._run(git_dir, [*args, "--end-of-options", self.origin.url, refspec], TIMEOUT_S)
        if answer.code != 0:
            raise SourceError(f"pushing to {self.origin.url}: {answer.complaint or 'git push failed'}")

    def stop(self) -> None:
        """End what is under way; it fails then, and so does whatever is asked later."""
        self._is_stopped = True
        if (process := self._process) is not None:
            _kill(process)

    def _explain(self, complaint: str) -> str:
        if "signal 25" in complaint or "File too large" in complaint:
            limit = f"{self.max_bytes // 2**20} MiB" if self.max_bytes >= 2**20 else f"{self.max_bytes} bytes"
            return f"it sends a file of more than {limit}; take it out, or raise source.maxSize"
        return complaint or "git fetch failed"

    def _run(self, git_dir: str, args: Sequence[str], timeout_s: float) -> GitAnswer:
        with ExitStack() as stack:
            secret = self._read_secret()
            options, fds = stack.enter_context(self._opened(secret))
            out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            blocks = str(max(1, self.max_bytes // _BLOCK_BYTES))
            command = [*_LIMITED, blocks, find_git(), *OPTIONS, *options, *args]
            try:
                process = self._process = subprocess.Popen(
                    command,
                    env=self._environment(git_dir),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    pass_fds=fds,
                    cwd="/",
                    start_new_session=True,
                )
                if self._is_stopped:
                    _kill(process)
                process.wait(timeout_s)
            except subprocess.TimeoutExpired as exc:
                _kill(process)
                raise SourceError(f"asking {self.origin.url}: it took longer than {timeout_s:g} s") from exc
            except (OSError, ValueError) as exc:
                raise SourceError(f"running git {args[0]} for {self.origin.url}") from exc
            finally:
                self._process = None
            complaint = printable(_without(_head(err, _MAX_COMPLAINT_BYTES), secret)[-_SHOWN_BYTES:])
            return GitAnswer(code=process.returncode, stdout=_head(out, _MAX_ANSWER_BYTES), complaint=complaint)

    def _environment(self, git_dir: str) -> dict[str, str]:
        env = {**closed_environment(git_dir), "GIT_ALLOW_PROTOCOL": self.origin.scheme}
        if self.origin.scheme == "ssh":
            known, key = self.credentials.known_hosts, self.credentials.file
            more = ["-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=/dev/null"] if known else []
            more += ["-o", f"IdentityFile={key}"] if key else []
            env |= {"GIT_SSH_COMMAND": shlex.join([self.ssh, *_SSH, *more]), "GIT_SSH_VARIANT": "ssh"}
        if self.origin.scheme == "file":
            # The operator named the directory; what serves it obeys none of its settings that could run anything.
            env |= {"GIT_CONFIG_GLOBAL": os.path.join(git_dir, SERVING_FILE)}
        return env

    def _read_secret(self) -> str:
        """Of https; empty where there is none. Raises SourceError that never holds it."""
        given = self.credentials
        if self.origin.scheme not in ("https", "http"):
            return ""
        if given.command is not None:
            text = _ask(given.command)
        elif given.file is not None:
            try:
                with open(given.file, "rb") as file:
                    text = file.read(_MAX_SECRET_BYTES)
            except OSError as exc:
                raise SourceError(f"reading source.credentials.file {given.file}: {exc.strerror}") from exc
        else:
            return ""
        try:
            secret = text.decode().strip()
        except UnicodeDecodeError:
            secret = ""
        if not secret or not secret.isprintable():
            raise SourceError("reading source.credentials: it is one line, a token or user:password")
        return secret

    @contextmanager
    def _opened(self, secret: str) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
        """The settings of one run, and the descriptor where git finds the secret."""
        config = list(_CONFIG)
        if self.credentials.ca_file is not None:
            config.append(f"http.sslCAInfo={self.credentials.ca_file}")
        if not secret:
            yield [part for c in config for part in ("-c", c)], ()
            return
        user, colon, password = secret.partition(":")
        fd = os.memfd_create("credentials", 0)
        try:
            os.write(fd, f"username={user if colon else 'git'}\npassword={password if colon else user}\n".encode())
            config.append(f"credential.{self.origin.server}.helper=!f() {{ cat /proc/self/fd/{fd}; }}; f")
            yield [part for c in config for part in ("-c", c)], (fd,)
        finally:
            os.close(fd)


def _ask(command: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
            cwd="/",
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired, ValueError) as exc:
        raise SourceError(f"running source.credentials.command {command[0]}") from exc
    if done.returncode != 0:
        raise SourceError(f"running source.credentials.command {command[0]}: it ended with {done.returncode}")
    return done.stdout[:_MAX_SECRET_BYTES]


def _without(said: bytes, secret: str) -> bytes:
    for part in {secret, secret.partition(":")[2]} - {""}:
        said = said.replace(part.encode(), b"***")
    return said


def _head(file: IO[bytes], at_most: int) -> bytes:
    file.seek(0)
    return file.read(at_most)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """The whole session: git leaves its helpers behind when it alone is killed."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
