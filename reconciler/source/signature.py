"""Who signed a commit or a tag, by the keys that the operator trusts: ssh (allowed signers) and OpenPGP.

The bytes of the object come in, the signer or a reason goes out. `ssh-keygen` and `gpg` are run with an environment of
their own and on nothing but the operator's keys; no key comes from the repository, from the user's key ring, or from
the network.

A key counts as it is now. A signature by a key that has expired or was revoked since is refused, because its date is
the signer's own word.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.errors import SourceError
from reconciler.source.git import printable

_TIMEOUT_S = 30.0
_MAX_SIGNATURE_BYTES = 64 * 1024
_MAX_KEYS_BYTES = 4 * 2**20
_FIELDS = (b"gpgsig", b"gpgsig-sha256")
_SSH = b"-----BEGIN SSH SIGNATURE-----"
_PGP = (b"-----BEGIN PGP SIGNATURE-----", b"-----BEGIN PGP MESSAGE-----")
_BEGINS = re.compile(rb"^(?:" + b"|".join((_SSH, *_PGP)) + rb")$", re.MULTILINE)
_STATUS = re.compile(rb"^\[GNUPG:\] ([A-Z_]+)(?: ([^\n]*))?$", re.MULTILINE)
_BAD = {
    "BADSIG": "its signature does not fit it",
    "ERRSIG": "it is signed by a key that is not among gpgKeys",
    "NO_PUBKEY": "it is signed by a key that is not among gpgKeys",
    "EXPSIG": "its signature has expired",
    "EXPKEYSIG": "it is signed by a key that has expired",
    "REVKEYSIG": "it is signed by a key that was revoked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """`signer` is the principal of the allowed signers, or the fingerprint of an OpenPGP key."""

    signer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """`reason` is about the commit: `it is not signed`."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The files of the operator's; absolute paths, read at use."""

    allowed_signers: str | None = None
    gpg_keys: str | None = None

    def digest(self) -> str:
        """Of what they hold now. Raises SourceError."""
        check = hashlib.sha256()
        for path in (self.allowed_signers, self.gpg_keys):
            content = _read(path) if path else b""
            check.update(f"{len(content)} ".encode() + content)
        return check.hexdigest()


def check_signature(commit: bytes, keys: Keys) -> Good | Bad:
    """Raises SourceError where keys cannot be read, or the program that checks them is not there."""
    payload, signatures = split_commit(commit)
    if not signatures:
        return Bad(reason="it is not signed")
    if len(signatures) > 1:
        return Bad(reason="its signature is malformed")
    return _check(payload, signatures[0], keys)


def check_tag_signature(tag: bytes, keys: Keys) -> Good | Bad:
    """The same for an annotated tag, whose signature is the end of its message."""
    payload, signature = split_tag(tag)
    return _check(payload, signature, keys) if signature else Bad(reason="it is not signed")


def split_tag(tag: bytes) -> tuple[bytes, bytes]:
    """What was signed, and the signature, which begins with the last line that begins one; empty where none does."""
    starts = [m.start() for m in _BEGINS.finditer(tag)]
    return (tag[: starts[-1]], tag[starts[-1] :]) if starts else (tag, b"")


def _check(payload: bytes, signature: bytes, keys: Keys) -> Good | Bad:
    if len(signature) > _MAX_SIGNATURE_BYTES:
        return Bad(reason="its signature is malformed")
    with tempfile.TemporaryDirectory(prefix="reconciler-keys-") as folder:
        if signature.startswith(_SSH):
            return _check_ssh(payload, signature, keys, folder)
        if signature.startswith(_PGP):
            return _check_gpg(payload, signature, keys, folder)
    return Bad(reason="it is signed in a way that is not known here; sign with ssh or gpg")


def split_commit(commit: bytes) -> tuple[bytes, Sequence[bytes]]:
    """What was signed, and the signatures: the commit without those fields, and their contents."""
    head, blank, message = commit.partition(b"\n\n")
    kept: list[bytes] = []
    signatures: list[bytearray] = []
    is_within = False
    for line in head.split(b"\n"):
        name, _, rest = line.partition(b" ")
        if line.startswith(b" ") and is_within:
            signatures[-1] += line[1:] + b"\n"
        elif name in _FIELDS:
            is_within = True
            signatures.append(bytearray(rest + b"\n"))
        else:
            is_within = False
            kept.append(line)
    return b"\n".join(kept) + blank + message, [bytes(s) for s in signatures]


def _check_ssh(payload: bytes, signature: bytes, keys: Keys, folder: str) -> Good | Bad:
    if keys.allowed_signers is None:
        return Bad(reason="it is signed with ssh, and the operator names no allowedSigners")
    _read(keys.allowed_signers)
    file = _write(folder, "signature", signature)
    common = ("-f", keys.allowed_signers, "-s", file)
    found = _run(("ssh-keygen", "-Y", "find-principals", *common), folder)
    if found.returncode != 0:
        said = printable(found.stderr + found.stdout)
        if "expired" in said:
            return Bad(reason=f"it is signed by a key that has expired ({said})")
        return Bad(reason="it is signed by a key that is not among allowedSigners")
    said = ""
    for principal in found.stdout.decode("utf-8", "replace").splitlines():
        verify = ("ssh-keygen", "-Y", "verify", "-n", "git", "-I", principal, *common)
        done = _run(verify, folder, payload)
        if done.returncode == 0:
            return Good(signer=principal)
        said = printable(done.stderr + done.stdout)
    return Bad(reason=f"its signature is refused: {said or 'no principal'}")


def _check_gpg(payload: bytes, signature: bytes, keys: Keys, folder: str) -> Good | Bad:
    if keys.gpg_keys is None:
        return Bad(reason="it is signed with gpg, and the operator names no gpgKeys")
    _read(keys.gpg_keys)
    file = _write(folder, "signature", signature)
    gpg = ("gpg", "--homedir", folder, "--batch", "--no-tty", "--quiet", "--no-autostart", "--no-options")
    imported = _run((*gpg, "--no-auto-check-trustdb", "--import", "--", keys.gpg_keys), folder)
    if imported.returncode != 0:
        raise SourceError(f"reading the keys in {keys.gpg_keys}: {printable(imported.stderr)}")
    offline = ("--no-auto-key-retrieve", "--no-auto-key-locate", "--trust-model", "always")
    done = _run((*gpg, *offline, "--status-fd", "1", "--verify", "--", file, "-"), folder, payload)
    status = [(m[1].decode(), (m[2] or b"").decode("utf-8", "replace")) for m in _STATUS.finditer(done.stdout)]
    names = [name for name, _ in status]
    if bad := next((_BAD[name] for name in names if name in _BAD), ""):
        return Bad(reason=bad)
    if names.count("GOODSIG") == 1 and names.count("VALIDSIG") == 1 and done.returncode == 0:
        return Good(signer=dict(status)["VALIDSIG"].split()[-1])
    return Bad(reason=f"its signature is refused: {printable(done.stderr) or 'gpg gives no reason'}")


def _run(command: Sequence[str], folder: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    program = shutil.which(command[0], path="/usr/local/bin:/usr/bin:/bin")
    if program is None:
        package = {"ssh-keygen": "openssh-client", "gpg": "gnupg"}[command[0]]
        raise SourceError(f"checking signatures: {command[0]} is not installed; install the package {package!r}")
    try:
        return subprocess.run(
            [program, *command[1:]],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": folder, "TZ": "UTC"},
            input=stdin,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            cwd="/",
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SourceError(f"checking signatures: running {command[0]}") from exc


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_KEYS_BYTES)
    except OSError as exc:
        raise SourceError(f"reading the keys in {path}: {exc.strerror}") from exc


def _write(folder: str, name: str, content: bytes) -> str:
    path = os.path.join(folder, name)
    with open(path, "wb") as out:
        out.write(content)
    return path
