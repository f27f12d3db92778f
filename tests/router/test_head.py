"""Heads that were seen before: what is matched is what the parser would have read."""

from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.router.head import Head, learn_head

START = b"POST /api/hub/messages HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer t\r\n"


class Reader:
    """What httptools reads in one message."""

    def __init__(self) -> None:
        self.url, self.body, self.ended = b"", b"", 0
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended += 1


def read(data: bytes) -> Reader:
    reader: Any = Reader()
    httptools.HttpRequestParser(reader).feed_data(data)
    return reader


def post(body: bytes, *, start: bytes = START, end: bytes = b"", name: bytes = b"Content-Length") -> bytes:
    return start + name + b": %d\r\n" % len(body) + end + b"\r\n" + body


def learn(data: bytes) -> Head | None:
    seen = read(data)
    return learn_head(data, seen.url, seen.headers)


@pytest.mark.parametrize("end", [b"", b"Accept: */*\r\n"])
@pytest.mark.parametrize("name", [b"Content-Length", b"content-length"])
def test_the_same_head_with_any_other_length_is_matched(end: bytes, name: bytes) -> None:
    head = learn(post(b"{}", end=end, name=name))
    assert head is not None
    assert head.url == b"/api/hub/messages"
    assert (b"authorization", b"Bearer t") in head.headers
    for body in (b"{}", b"", b"x" * 12345):
        assert head.match(post(body, end=end, name=name)) == body


@pytest.mark.parametrize(
    "other",
    [
        post(b"{}", start=START.replace(b"Bearer t", b"Bearer u")),
        post(b"{}", start=START.replace(b"messages", b"messages?wait=1")),
        post(b"{}", end=b"Expect: 100-continue\r\n"),
        post(b"{}")[:-1],
        post(b"{}") + b"x",
        post(b"{}") * 2,
        post(b"{}").replace(b": 2\r\n", b": +2\r\n"),
        post(b"{}").replace(b": 2\r\n", b": 2, 2\r\n"),
        post(b"{}").replace(b": 2\r\n", b": 2\r\nContent-Length: 2\r\n"),
        post(b"{}").replace(b": 2\r\n", b": \r\n"),
        post(b"{}").replace(b": 2\r\n", b": 0000000000002\r\n"),
        START,
        b"",
    ],
)
def test_whatever_differs_in_more_than_the_length_is_left_to_the_parser(other: bytes) -> None:
    head = learn(post(b"{}"))
    assert head is not None
    assert head.match(other) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET /api/hub/messages HTTP/1.1\r\nHost: hub\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        post(b"{}") * 2,
        START + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        START + b"Content-Length:2\r\n\r\n{}",
        START + b"X-Content-Length: 7\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_what_is_not_one_plain_post_is_not_learnt(data: bytes) -> None:
    seen = Reader()
    assert learn_head(data, seen.url, seen.headers) is None


names = st.sampled_from([b"Host", b"Accept", b"Content-Length", b"X-Content-Length", b"Content-Type", b"X"])
values = st.sampled_from([b"hub", b"2", b"12", b"content-length: 2", b""])


@given(st.lists(st.tuples(names, values), max_size=5), st.binary(max_size=20), st.binary(max_size=20))
def test_what_is_matched_is_what_the_parser_reads(lines: list[tuple[bytes, bytes]], one: bytes, other: bytes) -> None:
    end = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
    try:
        head = learn(post(one, end=end))
    except httptools.HttpParserError:
        return
    if head is None:
        return
    body = head.match(post(other, end=end))
    seen = read(post(other, end=end))
    assert body is not None
    assert (body, head.url, seen.ended) == (seen.body, seen.url, 1)
    assert list(head.headers) == [header for header in seen.headers if header[0] != b"content-length"]
