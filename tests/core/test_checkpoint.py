"""The bytes that a checkpoint's signature is over: no two checkpoints have the same. And what a sink gets of it."""

import json
import re
from dataclasses import replace

import pytest

from reconciler.core.checkpoint import Checkpoint, read_documents

ONE = Checkpoint(fleet="f1", seq=12, hash="ab", time="t", key="k")


def test_what_is_signed_is_readable_and_without_the_signature() -> None:
    assert ONE.signed_bytes == b"23:reconciler checkpoint 1\n2:f1\n2:12\n2:ab\n1:t\n1:k\n"
    assert replace(ONE, signature="s").signed_bytes == ONE.signed_bytes


def test_texts_that_move_between_fields_change_what_is_signed() -> None:
    moved = [replace(ONE, fleet="f1\n2:12", seq=12), replace(ONE, hash="a", time="bt"), replace(ONE, time="\n1:k")]
    assert len({c.signed_bytes for c in (ONE, *moved)}) == 4


def test_what_a_sink_got_is_read_back_from_among_other_documents() -> None:
    two = replace(ONE, seq=13, signature="s")
    other = json.dumps({"id": "heartbeat-1", "type": "Heartbeat"})
    assert list(read_documents(f"{ONE.document()}\n\n{other}\n{two.document()}\n")) == [ONE, two]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is no JSON document"),
        ("[" * 100_000, "line 2 is no JSON document"),
        ("7", "line 2 is no JSON document that a sink got"),
        (
            '{"type": "Checkpoint", "seq": true}',
            "line 2 is no whole checkpoint: fleet, seq, hash, time, key, signature",
        ),
    ],
)
def test_a_line_that_no_sink_got_is_named(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        list(read_documents(f"{ONE.document()}\n{line}\n"))
