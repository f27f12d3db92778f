"""Signatures: right only for the very bytes and the very key."""

from dataclasses import replace
from pathlib import Path

from reconciler.audit.signing import is_signed, open_signer, published_key


def test_a_checkpoint_is_signed_by_the_key_that_is_published(tmp_path: Path) -> None:
    assert published_key(tmp_path) == ""
    signer = open_signer(tmp_path, "f1")
    checkpoint = signer.sign_checkpoint(3, "ab", "t")
    assert checkpoint.key == published_key(tmp_path) == open_signer(tmp_path, "f1").public_key
    assert is_signed(checkpoint.signed_bytes, checkpoint.signature, checkpoint.key)
    assert not is_signed(replace(checkpoint, seq=4).signed_bytes, checkpoint.signature, checkpoint.key)


def test_what_is_no_signature_or_no_key_proves_nothing(tmp_path: Path) -> None:
    signer = open_signer(tmp_path, "f1")
    right = signer.sign(b"text")
    assert is_signed(b"text", right, signer.public_key)
    for signature in ("", "no base64", "AAAA", right[:-4]):
        assert not is_signed(b"text", signature, signer.public_key)
    for key in ("", "ed25519:", "rsa:AAAA", signer.public_key[:-4]):
        assert not is_signed(b"text", right, key)
