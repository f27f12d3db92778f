"""Keys of a test, and commits signed with them."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.source.repo import Repo


@dataclass
class SshKey:
    """`line` is one of an allowed-signers file."""

    path: Path
    principal: str

    @classmethod
    def make(cls, folder: Path, name: str) -> "SshKey":
        path = folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
        return cls(path, f"{name}@example.org")

    def line(self, options: str = "") -> str:
        return f"{self.principal} {options} {self.path.with_suffix('.pub').read_text()}"

    def sign(self, repo: Repo, *more: str) -> str:
        """A signed commit on top of HEAD, or another `git` command that commits."""
        how = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={self.path}")
        repo.git(*how, *(more or ("commit", "--quiet", "--allow-empty", "-m", "Signed")), "-S")
        return repo.git("rev-parse", "HEAD")


@dataclass
class GpgKey:
    """A key pair in a key ring of its own."""

    home: Path

    @classmethod
    def make(cls, folder: Path, name: str, *, expires: str = "never", at: str = "") -> "GpgKey":
        home = folder / name
        home.mkdir(mode=0o700)
        key = cls(home)
        when = ["--faked-system-time", at] if at else []
        key.gpg(*when, "--passphrase", "", "--quick-generate-key", f"{name}@example.org", "ed25519", "sign", expires)
        return key

    def gpg(self, *args: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--pinentry-mode", "loopback", *args]
        return subprocess.run(command, check=True, input=stdin, capture_output=True).stdout

    def public(self) -> bytes:
        return self.gpg("--armor", "--export")

    def sign(self, repo: Repo, *, at: str = "") -> str:
        """A commit with a signature of this key's; `at` is the time that gpg believes."""
        tree = repo.git("rev-parse", "HEAD^{tree}")
        plain = repo.run("cat-file", "commit", repo.git("commit-tree", tree, "-p", "HEAD", "-m", "Signed")).stdout
        when = ["--faked-system-time", at] if at else []
        signature = self.gpg(*when, "--armor", "--detach-sign", stdin=plain)
        return put_commit(repo, with_signature(plain, signature))

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False)


def with_signature(commit: bytes, signature: bytes) -> bytes:
    """The raw commit with that field."""
    head, blank, message = commit.partition(b"\n\n")
    return head + b"\ngpgsig " + signature.rstrip(b"\n").replace(b"\n", b"\n ") + blank + message


def put_commit(repo: Repo, raw: bytes) -> str:
    """Write a raw commit and point `main` to it."""
    commit = repo.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=raw)
    repo.git("update-ref", "refs/heads/main", commit)
    return commit
