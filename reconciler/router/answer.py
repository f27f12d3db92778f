"""What a caller is told: status, body and headers, and the same as bytes of HTTP/1.1. Pure."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus

import msgspec

JSON = b"application/json"
PROBLEM = b"application/problem+json"
_NO_CONTENT = int(HTTPStatus.NO_CONTENT)

Header = tuple[bytes, bytes]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """`headers` are those besides type and length."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()
    content_type: bytes = JSON


def find_header(headers: Sequence[Header], name: bytes) -> bytes:
    """The value of the first header of this name, which is lower-case; empty where there is none."""
    for found, value in headers:
        if found == name:
            return value
    return b""


def list_headers(answer: Answer) -> Sequence[Header]:
    """All headers."""
    if answer.status == _NO_CONTENT:
        return answer.headers
    length = b"%d" % len(answer.body)
    return ((b"content-type", answer.content_type), (b"content-length", length), *answer.headers)


def write_answer(answer: Answer, *, is_last: bool) -> bytes:
    """The whole answer; `is_last` says that the connection will be closed after it."""
    if not answer.headers and not is_last and answer.status != _NO_CONTENT:
        return b"%b%d\r\n\r\n%b" % (_start(answer.status, answer.content_type), len(answer.body), answer.body)
    lines = [_status_line(answer.status)]
    lines += [b"%b: %b\r\n" % header for header in list_headers(answer)]
    if is_last:
        lines.append(b"connection: close\r\n")
    return b"".join([*lines, b"\r\n", answer.body])


@lru_cache(maxsize=64)
def _start(status: int, content_type: bytes) -> bytes:
    """What comes before the length."""
    return b"%bcontent-type: %b\r\ncontent-length: " % (_status_line(status), content_type)


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
