"""HTTP at both rims: reading a request of uvicorn's, writing an answer. Pure ASGI, no framework.

`Call` is one request. It knows its connection, and so notices when the caller goes away, without a task that waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from reconciler.router.listener import Line

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

JSON = b"application/json"
PROBLEM = b"application/problem+json"
_READ_S = 30.0
_DISCARDED_BYTES = 64 * 2**20


class Call:
    """One request on a line. Bodies that take longer than `_READ_S` end the connection."""

    __slots__ = ("_receive", "_scope", "_send", "line", "query", "size_bytes", "wait_s")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.line: Line = scope["state"]["line"]
        query: bytes = scope["query_string"]
        self.query: Mapping[str, str] = dict(parse_qsl(query.decode("latin-1"))) if query else {}
        self.size_bytes = _read_length(scope["headers"])
        self.wait_s = 0.0

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        headers: Sequence[tuple[bytes, bytes]] = self._scope["headers"]
        return headers

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
        event = await self._receive()
        if event["type"] == "http.request" and not event.get("more_body"):
            body: bytes = event["body"]
            return body
        timer = asyncio.get_running_loop().call_later(_READ_S, self.line.drop)
        try:
            return await self._read_rest(event)
        finally:
            timer.cancel()

    async def wait(self, waiter: asyncio.Future[bytes | None], timeout_s: float) -> bytes | None:
        """What `waiter` is given; None after the time-out, or when the caller is gone."""
        await self.line.wait(waiter, timeout_s)
        return waiter.result()

    async def answer(
        self,
        status: int,
        body: bytes,
        content_type: bytes = JSON,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Write the whole answer; to nobody when the caller is gone.

        The rest of a refused body is read and dropped, which keeps the connection usable; one without end is not.
        """
        head = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
        if status == 204:
            head = list(headers)
        if status >= 400 and (self.size_bytes is None or self.size_bytes > _DISCARDED_BYTES):
            head.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body})

    async def _read_rest(self, event: Event) -> bytes:
        parts: list[bytes] = []
        while event["type"] == "http.request":
            parts.append(event["body"])
            if not event.get("more_body"):
                return b"".join(parts)
            event = await self._receive()
        raise ConnectionError("the caller went away")


def _read_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """What the caller announced: 0 without a body, None where it is chunked."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 19 else None
        if name == b"transfer-encoding":
            return None
    return 0
