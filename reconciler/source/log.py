"""What git says to an auditor: which commits a branch's history has, what each says of itself, and what it changed.

A path comes in, values go out. Objects are read without the repository's configuration, as everywhere here.
"""

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from reconciler.errors import SourceError
from reconciler.ports import Revision
from reconciler.source.commit import parse_commit
from reconciler.source.git import EmptyRepository, ObjectView, object_format_of, run_git
from reconciler.source.layout import Layout, is_branch_name, locate
from reconciler.source.objects import ObjectReader

_STEPS = re.compile(r"(?:[~^][0-9]{0,6}){1,20}\Z")
_FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_TRAILER = re.compile(r"(?P<key>[A-Za-z][A-Za-z0-9-]{1,40}): (?P<value>\S.*)")
_PERSON_TRAILER = re.compile(r".*-by", re.IGNORECASE)
_PERSON = re.compile(rb"(?P<who>.*) -?[0-9]{1,15} [+-][0-9]{4,}")
_HISTORY_TIMEOUT_S = 300.0
_MAX_DIFF_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitFacts:
    """`approvals` are the trailers that name people, such as `Reviewed-by: Ada`.

    `signer` says which key signed, if any. That a signature is there does not mean that it was checked.
    """

    revision: Revision
    parents: tuple[str, ...]
    committer: str
    message: str
    approvals: tuple[str, ...]
    signer: str


class GitLog:
    """One repository, read. Close it."""

    def __init__(self, path: str) -> None:
        """Raises SourceError where there is none."""
        self._path = path
        self._empty = EmptyRepository()
        try:
            layout = locate(path)
        except OSError as exc:
            raise SourceError(f"reading {path}") from exc
        if layout is None:
            raise SourceError(
                f"{path} is not a git repository; name it by --source, or the hub's operator.yaml by --operator"
            )
        self._layout: Layout = layout

    def close(self) -> None:
        """Remove the temporary directory."""
        self._empty.close()

    @property
    def is_shallow(self) -> bool:
        """Whether the history was cut off when it was fetched."""
        return self._layout.shallow_file is not None

    def resolve(self, name: str) -> str | None:
        """The commit that a branch, tag, id or `HEAD~1` names; None where there is none. Raises SourceError."""
        if not is_branch_name(_STEPS.sub("", name)):
            return None
        args = ["rev-parse", "--verify", "-q", "--end-of-options", f"{name}^{{commit}}"]
        found = run_git(self._layout.git_dir, args).stdout.decode("ascii", "replace").strip()
        return found if _FULL_ID.fullmatch(found) else None

    def history(self, branch: str) -> frozenset[str]:
        """Every commit that a branch (HEAD, where it is empty) reaches. Raises SourceError."""
        tip = self.resolve(f"refs/heads/{branch}" if branch else "HEAD") or (self.resolve(branch) if branch else None)
        if tip is None:
            raise SourceError(f"there is no branch {branch or 'HEAD'} in {self._path}")
        answer = self._view(tip).run("rev-list", tip, timeout_s=_HISTORY_TIMEOUT_S)
        if answer.code != 0:
            raise SourceError(f"reading the history of {branch or 'HEAD'} in {self._path}: {answer.complaint}")
        return frozenset(answer.stdout.decode("ascii").split())

    def commits(self, ids: Sequence[str]) -> Mapping[str, CommitFacts]:
        """What commits say of themselves, by id; those that are not there are left out. Raises SourceError."""
        wanted = [commit for commit in dict.fromkeys(ids) if _FULL_ID.fullmatch(commit)]
        if not wanted:
            return {}
        view = self._view(wanted[0])
        checked = view.run("cat-file", "--batch-check", stdin="".join(f"{commit}\n" for commit in wanted).encode())
        if checked.code != 0:
            raise SourceError(f"looking up commits in {self._path}: {checked.complaint}")
        lines = (line.split() for line in checked.stdout.decode("ascii", "replace").splitlines())
        there = [fields[0] for fields in lines if fields[1:2] == ["commit"]]
        with closing(ObjectReader(view)) as reader:
            return {commit: _facts(commit, text) for commit, text in reader.read(there, kind="commit").items()}

    def diff(self, old: str, new: str) -> str:
        """The unified diff from one commit to another, printable; from nothing, where `old` is empty. Cut at 256 KiB.

        Raises SourceError.
        """
        ends = [old, new] if old else ["--root", new]
        options = ("-p", "-M", "--no-color", "--no-ext-diff", "--no-textconv", "--no-commit-id")
        answer = self._view(new).run("diff-tree", *options, *ends)
        if answer.code != 0:
            raise SourceError(f"comparing {old[:12]} with {new[:12]} in {self._path}: {answer.complaint}")
        text = answer.stdout[:_MAX_DIFF_BYTES].decode("utf-8", "replace")
        cut = "\n(cut; git shows the rest)\n" if len(answer.stdout) > _MAX_DIFF_BYTES else ""
        return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text) + cut

    def _view(self, object_id: str) -> ObjectView:
        return ObjectView(
            git_dir=self._empty.path(object_format_of(object_id)),
            objects_dir=self._layout.objects_dir,
            shallow_file=self._layout.shallow_file,
        )


def _facts(commit: str, text: bytes) -> CommitFacts:
    head, _, body = text.partition(b"\n\n")
    lines = head.split(b"\n")
    message = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in body.decode("utf-8", "replace"))
    committer = next((_PERSON.fullmatch(line[10:]) for line in lines if line.startswith(b"committer ")), None)
    return CommitFacts(
        revision=parse_commit(commit, text),
        parents=tuple(line[7:].decode("ascii", "replace") for line in lines if line.startswith(b"parent ")),
        committer=committer["who"].decode("utf-8", "replace") if committer else "",
        message=message.strip("\n"),
        approvals=_approvals(message),
        signer=_signer(head),
    )


def _approvals(message: str) -> tuple[str, ...]:
    """Trailers of the last paragraph that name people."""
    lines = message.rstrip("\n").split("\n\n")[-1].split("\n")
    found = [m for line in lines if (m := _TRAILER.fullmatch(line.strip()))]
    return tuple(f"{m['key']}: {m['value'][:200]}" for m in found if _PERSON_TRAILER.fullmatch(m["key"]))


def _signer(head: bytes) -> str:
    """Of an SSH signature the key's fingerprint, as `ssh-keygen -l` shows it; of others that there is one."""
    lines = head.split(b"\n")
    start = next((i for i, line in enumerate(lines) if line.startswith((b"gpgsig ", b"gpgsig-sha256 "))), None)
    if start is None:
        return ""
    if b"BEGIN SSH SIGNATURE" not in lines[start]:
        return "an OpenPGP or X.509 key"
    body: list[bytes] = []
    for line in lines[start + 1 :]:
        if not line.startswith(b" ") or b"END SSH SIGNATURE" in line:
            break
        body.append(line.strip())
    try:
        blob = base64.b64decode(b"".join(body), validate=True)
        (length,) = struct.unpack_from(">I", blob, 10)
        key = blob[14 : 14 + length]
    except (binascii.Error, struct.error):
        return "an SSH signature that cannot be read"
    return f"SSH key SHA256:{base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip('=')}"
