"""A document as text for people: a line that names it, and what there is to know; what is no notice stays as it is."""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """`id` is the same for each try; `kind` is failure, success or info."""

    id: str
    title: str
    body: str
    kind: str


_KINDS = {"raised": "failure", "cleared": "success"}
_SHOWN = ("fleet", "subject", "type", "reason", "since", "time")


def compose(document: bytes) -> Letter:
    """Of a notice or a heartbeat, without control characters; another document, such as a checkpoint, word for word."""
    notice = {key: _clean(str(value)) for key, value in json.loads(document).items()}
    fleet = f" {notice['fleet']}" if "fleet" in notice else ""
    if "status" not in notice:
        title = f"[reconciler{fleet}] {notice['type']}"
        return Letter(id=notice["id"], title=title, body=f"{document.decode()}\n", kind="info")
    facts = [f"{name}: {notice[name]}" for name in _SHOWN if notice.get(name)]
    body = "\n".join([*([notice["message"], ""] if notice.get("message") else []), *facts])
    return Letter(
        id=notice["id"],
        title=f"[reconciler{fleet}] {notice['status']}: {notice['type']} of {notice['subject']}",
        body=f"{body}\n",
        kind=_KINDS.get(notice["status"], "info"),
    )


def _clean(text: str) -> str:
    """In one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
