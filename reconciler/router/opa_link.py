"""Requests to an HTTP server of this host over connections that are kept: one at a time on each, none without an end.

An address and the parts of requests come in; status and body go out, or a `Fault` that says why there is none.
Redirects are answers like others; nothing is tried again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeAlias

import httptools
import msgspec

from reconciler.core.address import Address, TcpAddress
from reconciler.policy.opa_answer import MAX_ANSWER_BYTES, Fault, no_answer_within

_MAX_LINES = 32


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What the server said."""

    status: int
    body: bytes


Said: TypeAlias = Reply | Fault


class OpaLink:
    """The connections to one server. `on_lost` is called when the server ends one."""

    def __init__(self, address: Address, on_lost: Callable[[], None] = lambda: None) -> None:
        self._address = address
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(_MAX_LINES)
        self._idle: list[_Line] = []

    def head(self, target: str) -> bytes:
        """What a request for a path with its query begins with; length and body follow."""
        host = str(self._address).removeprefix("http://") if isinstance(self._address, TcpAddress) else "localhost"
        start = f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
        return start.encode("ascii")

    async def ask(self, head: bytes, body: bytes, timeout_s: float) -> Said:
        """What the server answers to this JSON within `timeout_s`, waiting for a connection included."""
        request = b"%b%d\r\n\r\n%b" % (head, len(body), body)
        if self._idle and not self._places.locked():
            async with self._places:
                return await self._use(self._idle.pop(), request, timeout_s)
        # A task of its own, because whoever asks may be none, and a time-out needs one.
        return await self._loop.create_task(self._ask_later(request, timeout_s))

    async def close(self, timeout_s: float) -> None:
        """Let what was asked be answered, for as long as `timeout_s`, then close the connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for _ in range(_MAX_LINES):
                    await self._places.acquire()
        while self._idle:
            self._idle.pop().close()

    async def _ask_later(self, request: bytes, timeout_s: float) -> Said:
        """When there is a connection that nobody uses, or a place for a new one."""
        try:
            async with asyncio.timeout(timeout_s), self._places:
                line = self._idle.pop() if self._idle else await self._connect()
                return await self._use(line, request, timeout_s)
        except TimeoutError:
            return no_answer_within(timeout_s)
        except OSError as error:
            return Fault(reason=f"cannot be reached at {self._address}: {error.strerror or error}")

    async def _use(self, line: "_Line", request: bytes, timeout_s: float) -> Said:
        waiter = line.ask(request)
        timer = self._loop.call_later(timeout_s, line.give_up, no_answer_within(timeout_s))
        try:
            return await waiter
        finally:
            timer.cancel()
            if line.is_reusable:
                self._idle.append(line)
            else:
                line.close()

    async def _connect(self) -> "_Line":
        if isinstance(self._address, TcpAddress):
            _, line = await self._loop.create_connection(
                lambda: _Line(self._forget), self._address.host, self._address.port
            )
        else:
            _, line = await self._loop.create_unix_connection(lambda: _Line(self._forget), self._address.path)
        return line

    def _forget(self, line: "_Line") -> None:
        if line in self._idle:
            self._idle.remove(line)
        self._on_lost()


class _Line(asyncio.Protocol):
    """One connection. `on_lost` is called when the other side ends it."""

    def __init__(self, on_lost: Callable[["_Line"], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Said] | None = None
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._is_closed = False
        self.is_reusable = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.give_up(Fault(reason=f"it ended the connection without an answer{f': {exc}' if exc else ''}"))
        self.is_reusable = False
        if not self._is_closed:
            self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._waiter is None and self._transport is not None:
            self._transport.abort()
        elif self._size_bytes > MAX_ANSWER_BYTES:
            self.give_up(Fault(reason=f"its answer has more than {MAX_ANSWER_BYTES} bytes"))
        else:
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                self.give_up(Fault(reason=f"its answer is not HTTP: {error}"))

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            self.is_reusable = False
            return
        self.is_reusable = status >= 200 and self._parser.should_keep_alive()
        waiter.set_result(
            Reply(status, b"".join(self._parts)) if status >= 200 else Fault(reason=f"it answers with status {status}")
        )

    def ask(self, request: bytes) -> "asyncio.Future[Said]":
        """What it answers to this request. While it is waited for, nothing else may be asked."""
        waiter: asyncio.Future[Said] = self._loop.create_future()
        self.is_reusable = False
        self._parts, self._size_bytes, self._waiter = [], 0, waiter
        if self._transport is None or self._transport.is_closing():
            self.give_up(Fault(reason="it ended the connection"))
        else:
            self._transport.write(request)
        return waiter

    def give_up(self, fault: Fault) -> None:
        """Whoever waits gets the fault instead of an answer, and the connection is not used again."""
        waiter, self._waiter = self._waiter, None
        self.is_reusable = False
        if waiter is not None and not waiter.done():
            waiter.set_result(fault)

    def close(self) -> None:
        self._is_closed, self.is_reusable = True, False
        if self._transport is not None:
            self._transport.abort()
