"""A notice as text: what names it stands first, and nothing in it can look like something else."""

import json

from reconciler.alerts.text import Letter, compose
from reconciler.core.checkpoint import Checkpoint, read_documents


def test_a_notice_has_a_title_a_message_and_facts() -> None:
    notice = {
        "id": "1",
        "fleet": "f",
        "status": "cleared",
        "type": "T",
        "subject": "hub",
        "reason": "",
        "message": "it is over",
        "time": "now",
    }
    assert compose(json.dumps(notice).encode()) == Letter(
        id="1",
        title="[reconciler f] cleared: T of hub",
        body="it is over\n\nfleet: f\nsubject: hub\ntype: T\ntime: now\n",
        kind="success",
    )


def test_line_breaks_and_control_characters_are_spaces() -> None:
    notice = {"id": "1", "status": "raised\r\nBcc: x", "type": "T\x1b[31m", "subject": "a\u2028b", "message": "a\n\nb"}
    letter = compose(json.dumps(notice).encode())
    assert letter.title == "[reconciler] raised Bcc: x: T [31m of a b"
    assert letter.body == "a b\n\nsubject: a b\ntype: T [31m\n"


def test_a_checkpoint_is_handed_on_word_for_word() -> None:
    signed = Checkpoint(fleet="f", seq=7, hash="h", time="now", key="k", signature="s")
    letter = compose(signed.document().encode())
    assert (letter.id, letter.title, letter.kind) == ("checkpoint-f-7", "[reconciler f] Checkpoint", "info")
    assert list(read_documents(letter.body)) == [signed]
