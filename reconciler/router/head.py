"""The head of a request that a line has seen before: the same bytes but for the length need no parser. Pure.

Agents send one head over and over, with another Content-Length each time. What the parser made of it the first time
holds for all of them.
"""

from collections.abc import Sequence

import msgspec

from reconciler.router.answer import Header

_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_MAX_DIGITS = 9


class Head(msgspec.Struct, frozen=True, gc=False):
    """What the parser read of a POST, and the bytes of the head before and after the digits of its Content-Length."""

    url: bytes
    headers: Sequence[Header]
    before: bytes
    after: bytes

    def match(self, data: bytes) -> bytes | None:
        """The body, where `data` is one whole request with this head and nothing else."""
        if not data.startswith(self.before):
            return None
        start = len(self.before)
        stop = data.find(b"\r", start, start + _MAX_DIGITS + 1)
        digits = data[start:stop]
        if not digits.isdigit() or not data.startswith(self.after, stop):
            return None
        body = data[stop + len(self.after) :]
        return body if len(body) == int(digits) else None


def learn_head(data: bytes, url: bytes, headers: Sequence[Header]) -> Head | None:
    """The head of `data`, which ended with a request that was read to be this.

    None where that is not all of it, is not a POST, or has no plain length.
    """
    end = data.find(_END) + len(_END)
    head = data[:end]
    lower = head.lower()
    at = lower.find(_LENGTH)
    if at < 0 or lower.count(_LENGTH.strip(b"\r\n: ")) != 1 or not head.startswith(b"POST "):
        return None
    start = at + len(_LENGTH)
    stop = head.find(b"\r", start)
    digits = head[start:stop]
    if not digits.isdigit() or len(data) - end != int(digits):
        return None
    others = tuple(header for header in headers if header[0] != b"content-length")
    return Head(url, others, head[:start], head[stop:])
