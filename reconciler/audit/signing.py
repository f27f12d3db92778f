"""Signing checkpoints and notes with the hub's Ed25519 key, and checking who signed."""

import base64
import binascii
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reconciler.core.checkpoint import Checkpoint
from reconciler.errors import StoreError
from reconciler.identity.hub_key import PUBLIC_FILE, load_or_make_key, read_public_key, show_public_key


class Signer:
    """The key of one fleet."""

    def __init__(self, key: Ed25519PrivateKey, fleet: str) -> None:
        self._key, self.fleet = key, fleet
        self.public_key = show_public_key(key.public_key())

    def sign(self, content: bytes) -> str:
        """The signature in base64."""
        return base64.b64encode(self._key.sign(content)).decode()

    def sign_checkpoint(self, seq: int, row_hash: str, time: str) -> Checkpoint:
        unsigned = Checkpoint(fleet=self.fleet, seq=seq, hash=row_hash, time=time, key=self.public_key)
        return Checkpoint(
            fleet=self.fleet,
            seq=seq,
            hash=row_hash,
            time=time,
            key=self.public_key,
            signature=self.sign(unsigned.signed_bytes),
        )


def open_signer(folder: Path, fleet: str) -> Signer:
    """With the key in `folder`, made there where there is none. Raises StoreError."""
    return Signer(load_or_make_key(folder), fleet)


def published_key(folder: Path) -> str:
    """The public key that lies beside the signing key; empty where none was made yet. Raises StoreError."""
    try:
        return (folder / PUBLIC_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise StoreError(f"reading the public key {folder / PUBLIC_FILE}") from error


def is_signed(content: bytes, signature: str, public_key: str) -> bool:
    """Whether the holder of that key signed the content."""
    try:
        read_public_key(public_key).verify(base64.b64decode(signature, validate=True), content)
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True
