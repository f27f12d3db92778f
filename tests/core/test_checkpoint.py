"""The bytes that a checkpoint's signature is over: no two checkpoints have the same."""

from dataclasses import replace

from reconciler.core.checkpoint import Checkpoint

ONE = Checkpoint(fleet="f1", seq=12, hash="ab", time="t", key="k")


def test_what_is_signed_is_readable_and_without_the_signature() -> None:
    assert ONE.signed_bytes == b"23:reconciler checkpoint 1\n2:f1\n2:12\n2:ab\n1:t\n1:k\n"
    assert replace(ONE, signature="s").signed_bytes == ONE.signed_bytes


def test_texts_that_move_between_fields_change_what_is_signed() -> None:
    moved = [replace(ONE, fleet="f1\n2:12", seq=12), replace(ONE, hash="a", time="bt"), replace(ONE, time="\n1:k")]
    assert len({c.signed_bytes for c in (ONE, *moved)}) == 4
