"""What a raw commit says of itself.

Bytes come in, a `Revision` goes out; nothing in them is trusted to be well formed.
"""

import re
from datetime import UTC, datetime

from reconciler.ports import Revision

_PERSON = re.compile(rb"(?P<who>.*) (?P<seconds>-?[0-9]{1,15}) [+-][0-9]{4,}")
_MAX_CHARACTERS = 500


def parse_commit(commit: str, text: bytes) -> Revision:
    """`time` is the committer's, in UTC; what doesn't print is replaced."""
    head, _, message = text.partition(b"\n\n")
    fields = dict(line.partition(b" ")[::2] for line in reversed(head.split(b"\n")))
    encoding = fields.get(b"encoding", b"utf-8").decode("ascii", "replace")
    author, committer = (
        _PERSON.fullmatch(fields.get(b"author", b"")),
        _PERSON.fullmatch(fields.get(b"committer", b"")),
    )
    return Revision(
        id=commit,
        author=_decode(author["who"] if author else b"", encoding),
        subject=_decode(message.lstrip(b"\n").split(b"\n")[0], encoding),
        time=_parse_time(committer["seconds"]) if committer else None,
    )


def _parse_time(seconds: bytes) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _decode(text: bytes, encoding: str) -> str:
    try:
        decoded = text[:2000].decode(encoding, "replace")
    except (LookupError, ValueError):
        decoded = text[:2000].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\ufffd" for c in decoded)[:_MAX_CHARACTERS].strip()
