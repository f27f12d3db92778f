"""HTTP at both rims: reading a request, writing an answer through ASGI. No framework.

`Call` is one request. It knows its connection, and so notices when the caller goes away, without a task that waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from reconciler.router.answer import Answer, Header, list_headers
from reconciler.router.line import Line

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

_READ_S = 30.0
_DISCARDED_BYTES = 64 * 2**20
_NO_QUERY: Final[Mapping[str, str]] = {}


class Call:
    """One request on a line. Bodies that take longer than `_READ_S` end the connection."""

    __slots__ = ("_body", "_receive", "headers", "line", "method", "path", "query", "size_bytes", "wait_s")

    def __init__(
        self,
        line: Line,
        method: str,
        path: str,
        query: str,
        headers: Sequence[Header],
        size_bytes: int | None,
        *,
        body: bytes = b"",
        receive: Receive | None = None,
    ) -> None:
        """`size_bytes` is what the caller announced, None where the body is chunked.

        `body` is all of it, unless there is something to `receive` it from.
        """
        self.line = line
        self.method = method
        self.path = path
        self.query: Mapping[str, str] = _read_query(query) if query else _NO_QUERY
        self.headers = headers
        self.size_bytes = size_bytes
        self.wait_s = 0.0
        self._body = body
        self._receive = receive

    @property
    def is_gone(self) -> bool:
        return self.line.is_lost

    def query_number(self, name: str, default: float, most: float) -> float | None:
        """A number of the query between 0 and `most`, which also caps it; None when it is no number."""
        text = self.query.get(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            return None
        return min(number, most) if number >= 0 else None

    async def read(self) -> bytes:
        """The body. Raises ConnectionError when the caller is gone before its end, or too slow."""
        if self._receive is None:
            return self._body
        event = await self._receive()
        if event["type"] == "http.request" and not event.get("more_body"):
            body: bytes = event["body"]
            return body
        timer = self.line.loop.call_later(_READ_S, self.line.drop)
        try:
            return await _read_rest(event, self._receive)
        finally:
            timer.cancel()

    def note_denial(self, now: float) -> None:
        """The caller is over its rate, at `now`."""
        self.line.note_denial(now)

    async def wait(self, waiter: asyncio.Future[bytes | None], timeout_s: float) -> bytes | None:
        """What `waiter` is given; None after the time-out, or when the caller is gone."""
        await self.line.wait(waiter, timeout_s)
        return waiter.result()


def plain_call(line: Line, method: bytes, url: bytes, headers: Sequence[Header], body: bytes) -> Call:
    """A request that is here as a whole."""
    path, _, query = url.decode("ascii").partition("?")
    return Call(line, method.decode("ascii"), path, query, headers, len(body), body=body)


def asgi_call(scope: Scope, receive: Receive) -> Call:
    """A request as uvicorn hands it on."""
    line, query, headers = scope["state"]["line"], scope["query_string"].decode("latin-1"), scope["headers"]
    return Call(line, scope["method"], scope["path"], query, headers, _read_length(headers), receive=receive)


async def serve(answer: Callable[[Call], Awaitable[Answer]], scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application that answers with what `answer` says; where nobody is to be answered, the line is dropped."""
    call = asgi_call(scope, receive)
    try:
        await send_answer(send, call, await answer(call))
    except ConnectionError:
        call.line.drop()


async def send_answer(send: Send, call: Call, answer: Answer) -> None:
    """Write the whole answer; to nobody when the caller is gone.

    The rest of a refused body is read and dropped, which keeps the connection usable; one without end is not.
    """
    headers = list(list_headers(answer))
    if answer.status >= 400 and (call.size_bytes is None or call.size_bytes > _DISCARDED_BYTES):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _read_rest(event: Event, receive: Receive) -> bytes:
    parts: list[bytes] = []
    while event["type"] == "http.request":
        parts.append(event["body"])
        if not event.get("more_body"):
            return b"".join(parts)
        event = await receive()
    raise ConnectionError("the caller went away")


def _read_query(query: str) -> Mapping[str, str]:
    if "%" in query or "+" in query:
        return dict(parse_qsl(query, keep_blank_values=True))
    pairs = (part.partition("=") for part in query.split("&"))
    return {name: value for name, _, value in pairs}


def _read_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """What the caller announced: 0 without a body, None where it is chunked."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 19 else None
        if name == b"transfer-encoding":
            return None
    return 0
