"""Instance tokens: 256 random bits in a file on tmpfs; the record keeps the SHA-256 only."""

import hashlib
import os
import secrets
from pathlib import Path

from reconciler.core.secret import TOKEN_FILE


def new_token() -> tuple[str, str]:
    """A token and its SHA-256 in hex."""
    token = secrets.token_urlsafe(32)
    return token, token_digest(token)


def token_digest(token: str) -> str:
    """The SHA-256 of a token, in hex: what the record and the router know of it."""
    return hashlib.sha256(token.encode()).hexdigest()


def write_token(folder: Path, token: str, uid: int) -> None:
    """Put the token into `folder`, readable by `uid` only, by atomic rename."""
    write_private(folder / TOKEN_FILE, token.encode("ascii"), uid)


def write_private(file: Path, content: bytes, uid: int) -> None:
    """A file that only `uid` may read, by atomic rename."""
    temporary = file.with_name(f".{file.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        if os.geteuid() == 0:
            os.fchown(out.fileno(), uid, uid)
    temporary.rename(file)


def make_private_folder(folder: Path, uid: int) -> None:
    """A directory that only `uid` (and root) may enter; its parent may be passed through by anyone."""
    folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    give_to(folder, uid)


def give_to(path: Path, uid: int) -> None:
    """Change the owner where we may; without root everything runs as one user anyway."""
    if os.geteuid() == 0:
        os.chown(path, uid, uid)
