"""The hub's signing key: made once, private, never replaced."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from reconciler.errors import StoreError
from reconciler.identity.hub_key import load_or_make_key, read_public_key, show_public_key


def test_it_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    made, again = load_or_make_key(tmp_path), load_or_make_key(tmp_path)
    assert made.private_bytes_raw() == again.private_bytes_raw()
    assert stat.S_IMODE((tmp_path / "hub.key").stat().st_mode) == 0o600
    assert (tmp_path / "hub.pub").read_text() == show_public_key(made.public_key()) + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub.key", "hub.pub"]


def test_what_is_not_such_a_key_is_not_replaced(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    for content in (b"", b"x", other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())):
        (tmp_path / "hub.key").write_bytes(content)
        with pytest.raises(StoreError, match=r"restore it from the backup"):
            load_or_make_key(tmp_path)
        assert (tmp_path / "hub.key").read_bytes() == content


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"hub\.key"):
        load_or_make_key(tmp_path / "missing")


def test_a_public_key_is_written_and_read() -> None:
    key = Ed25519PrivateKey.generate().public_key()
    assert read_public_key(show_public_key(key)) == key


@pytest.mark.parametrize(
    "text", ["", "ed25519:", "ed25519:AAAA", "AAAA", "rsa:" + "A" * 43 + "=", "ed25519:" + "*" * 44]
)
def test_what_is_no_public_key_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="write ed25519: and the 32 bytes"):
        read_public_key(text)
