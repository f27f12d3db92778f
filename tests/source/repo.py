"""Real git repositories in temporary directories, made with a git of known behaviour."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

IDENTITY = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Bob",
    "GIT_COMMITTER_EMAIL": "bob@example.org",
    "GIT_AUTHOR_DATE": "1700000000 +0100",
    "GIT_COMMITTER_DATE": "1700000060 +0100",
    "GIT_EDITOR": "true",
    "PATH": os.environ["PATH"],
}


class Repo:
    """A work tree that a test works in, as a person would."""

    def __init__(self, path: Path, *init: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if init:
            self.git(*init)

    def git(self, *args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
        """Standard output without the last newline; fails the test if git fails."""
        return self.run(*args, stdin=stdin, env=env, check=True).stdout.decode().rstrip("\n")

    def run(
        self,
        *args: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """The same for a command that may fail."""
        done = subprocess.run(
            ["git", *args],
            cwd=self.path,
            env={**IDENTITY, **(env or {})},
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done

    def write(self, path: str, content: str | bytes) -> None:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: Mapping[str, str | bytes] | None = None, message: str = "Change") -> str:
        """Write the files, commit everything, and return the id."""
        for path, content in (files or {}).items():
            self.write(path, content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def hash_tree(self, *records: str) -> str:
        """A tree object from lines of `git mktree`, as hostile as they may be."""
        return self.git("mktree", "--missing", stdin="".join(f"{r}\n" for r in records).encode())

    def commit_tree(self, tree: str) -> str:
        """Point `main` at a new commit of that tree, whatever is in the work tree."""
        commit = self.git("commit-tree", "-m", "Crafted", tree)
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    def blob(self, content: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=content)


def make_repo(path: Path, files: Mapping[str, str | bytes] | None = None) -> Repo:
    """A repository on branch `main`, with one commit if there are files."""
    repo = Repo(path, "init", "--quiet", "--initial-branch=main")
    if files:
        repo.commit(files, "First")
    return repo


def bytes_read() -> int:
    """How much this process has read so far, from files and pipes."""
    counters = Path("/proc/self/io").read_text().split("\n")
    return int(counters[0].removeprefix("rchar: "))


def children() -> list[int]:
    """The readers of objects that this process has started and not yet waited for."""
    tasks = Path("/proc/self/task").glob("*/children")
    found = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in found if b"cat-file" in Path(f"/proc/{pid}/cmdline").read_bytes()]
