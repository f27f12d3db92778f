from __future__ import annotations

import socket
import threading

import pytest

from reconciler.agentd.response import Response, ResponseError, read_response


def read(*pieces: bytes, closes: bool = True) -> Response:
    """What is made of these bytes, each sent by itself."""
    here, there = socket.socketpair()

    def send() -> None:
        for piece in pieces:
            there.sendall(piece)
        if closes:
            there.shutdown(socket.SHUT_WR)

    with here, there:
        thread = threading.Thread(target=send)
        thread.start()
        try:
            here.settimeout(60)
            return read_response(here)
        finally:
            here.close()
            thread.join()


def test_a_response_is_read_to_its_length_however_it_comes() -> None:
    whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nRetry-After:  1.5 \r\n\r\n{}"
    headers = {"content-length": "2", "retry-after": "1.5"}
    expected = Response(status=202, headers=headers, content=b"{}", is_last=False)
    assert read(whole, closes=False) == expected
    assert read(*(whole[n : n + 1] for n in range(len(whole))), closes=False) == expected


def test_a_large_body_is_read_whole() -> None:
    body = b"x" * 300_000
    assert read(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n", body, closes=False).content == body


@pytest.mark.parametrize(
    ("sent", "content", "is_last"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.1 200 OK\r\n\r\nall of it", b"all of it", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", False),
    ],
)
def test_the_end_of_a_response_is_found(sent: bytes, content: bytes, is_last: bool) -> None:
    response = read(sent)
    assert (response.content, response.is_last) == (content, is_last)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 2000 Oh\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 2**17,
    ],
)
def test_what_is_no_whole_response_is_an_error(sent: bytes) -> None:
    with pytest.raises(ResponseError):
        read(sent)
