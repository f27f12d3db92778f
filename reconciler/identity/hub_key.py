"""The hub's signing key: Ed25519, in the data directory, made when it is first needed.

`hub.key` (PEM, PKCS #8) is for the hub's processes only; `hub.pub` holds the public key as peers and manifests write
it.
"""

import base64
import binascii
import contextlib
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from reconciler.errors import StoreError

KEY_FILE, PUBLIC_FILE = "hub.key", "hub.pub"
SCHEME = "ed25519:"


def load_or_make_key(folder: Path) -> Ed25519PrivateKey:
    """The key of a data directory, which its owner alone can read. Raises StoreError; it never replaces a key."""
    file = folder / KEY_FILE
    try:
        if not file.exists():
            content = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_once(file, content)
        key = load_pem_private_key(file.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("it is not an Ed25519 key")
        (folder / PUBLIC_FILE).write_text(f"{show_public_key(key.public_key())}\n", encoding="ascii")
    except (OSError, ValueError) as error:
        raise StoreError(f"using the hub's signing key {file}; restore it from the backup, or remove it") from error
    return key


def show_public_key(key: Ed25519PublicKey) -> str:
    """`ed25519:` and the 32 bytes in base64."""
    return SCHEME + base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def read_public_key(text: str) -> Ed25519PublicKey:
    """What `show_public_key` wrote. Raises ValueError that says what is expected."""
    encoded = text.removeprefix(SCHEME)
    try:
        if encoded == text:
            raise ValueError(f"it does not begin with {SCHEME}")
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded, validate=True))
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"not a public key; write {SCHEME} and the 32 bytes of an Ed25519 key in base64") from error


def write_once(file: Path, content: bytes) -> None:
    """For our eyes only, complete or not at all; of two who make one at once, the first one's stays. Raises OSError."""
    temporary = file.with_suffix(f".{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink()
