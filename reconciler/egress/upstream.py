"""Requests to one provider over connections that are kept: an answer is handed on as it comes, at its reader's pace.

The bytes of a request go out; head and chunks of the answer come in, or a `Fault` that says why there is none. Nothing
waits without an end. A request is tried again only where a kept connection turned out to have ended before it.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import httptools

from reconciler.core.address import TcpAddress
from reconciler.core.provider_url import ProviderUrl
from reconciler.router.answer import Header

_MAX_IDLE = 32
_IDLE_S = 30.0
_FULL_BYTES = 256 * 1024
_MAX_HEAD_BYTES = 64 * 1024

Wait: TypeAlias = Callable[["asyncio.Future[Any]", float], Awaitable[None]]
"""Waits for a future at most so many seconds; sets None where its time is over, or whoever it is for went away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The provider gave no answer, or not all of it."""

    reason: str
    is_timeout: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers, with names in lower case."""

    status: int
    headers: Sequence[Header]


class Upstream:
    """The connections to one provider."""

    def __init__(self, url: ProviderUrl, connect_s: float) -> None:
        self.url = url
        self._connect_s = connect_s
        self._idle: list[Link] = []
        self._open: set[Link] = set()
        self._tls: ssl.SSLContext | None = None
        self._is_closed = False

    @property
    def idle(self) -> int:
        return len(self._idle)

    async def ask(self, request: bytes, wait: Wait, head_s: float) -> "Link | Fault":
        """Send a whole request; a link whose `head` has come. It has to be released."""
        while self._idle:
            link = self._idle.pop()
            fault = await link.ask(request, wait, head_s)
            if fault is None:
                return link
            if not link.is_stale:
                self.release(link)
                return fault
            self.release(link)
        connected = await self._connect()
        if isinstance(connected, Fault):
            return connected
        fault = await connected.ask(request, wait, head_s)
        if fault is not None:
            self.release(connected)
            return fault
        return connected

    def release(self, link: "Link") -> None:
        """Done with it: kept where its answer came to its end, else closed."""
        if link.is_reusable and not self._is_closed and len(self._idle) < _MAX_IDLE:
            link.rest(_IDLE_S)
            self._idle.append(link)
        else:
            link.close()

    def close(self) -> None:
        """Close what is idle now, and the others when they are done with."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> "Link | Fault":
        loop, address = asyncio.get_running_loop(), self.url.address
        try:
            async with asyncio.timeout(self._connect_s):
                if isinstance(address, TcpAddress):
                    context = self._context() if self.url.is_tls else None
                    _, link = await loop.create_connection(
                        lambda: Link(self._forget), address.host, address.port, ssl=context
                    )
                else:
                    _, link = await loop.create_unix_connection(lambda: Link(self._forget), address.path)
        except TimeoutError:
            return Fault(reason=f"no connection within {self._connect_s:g} s", is_timeout=True)
        except OSError as error:
            return Fault(reason=f"cannot be reached: {error.strerror or type(error).__name__}")
        return link

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _forget(self, link: "Link") -> None:
        if link in self._idle:
            self._idle.remove(link)


class Link(asyncio.Protocol):
    """One connection. `is_stale` says that it ended before anything of an answer came, after it had been kept."""

    def __init__(self, on_lost: Callable[["Link"], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[Any] | None = None
        self._was_used = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_paused = False
        self._is_asked = False
        self._is_ended = False
        self._is_kept = False
        self._has_length = False
        self._fault: Fault | None = None
        self.head: Head | None = None
        self.is_stale = False

    @property
    def is_reusable(self) -> bool:
        """Whether its answer came to its end, and the provider lets it go on."""
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and self._is_kept and self._fault is None

    async def ask(self, request: bytes, wait: Wait, head_s: float) -> Fault | None:
        """Send it and wait for the head of the answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        was_used, self._was_used = self._was_used, True
        self._begin()
        if self._transport is None or self._transport.is_closing():
            self.is_stale = was_used
            return Fault(reason="it ended the connection")
        self._is_asked = True
        self._transport.write(request)
        await self._wait(wait, head_s)
        if self.head is not None:
            return None
        self.is_stale = was_used and self._fault is not None and not self._head_bytes
        return self._fault or Fault(reason=f"no answer within {head_s:g} s", is_timeout=True)

    async def read(self, wait: Wait, idle_s: float) -> bytes | Fault:
        """What came since the last call, once there is something; empty at the end."""
        if not self._chunks and not self._is_ended and self._fault is None:
            await self._wait(wait, idle_s)
        if self._chunks:
            content = b"".join(self._chunks)
            self._chunks.clear()
            self._waiting_bytes = 0
            if self._is_paused and self._transport is not None:
                self._is_paused = False
                self._transport.resume_reading()
            return content
        if self._is_ended:
            return b""
        return self._fault or Fault(reason=f"silent for {idle_s:g} s", is_timeout=True)

    def rest(self, idle_s: float) -> None:
        """Nobody uses it for a while; then it is closed."""
        self._is_asked = False
        self._timer = self._loop.call_later(idle_s, self.close)

    def close(self) -> None:
        """Without waiting for anything."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, wait: Wait, seconds: float) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await wait(waiter, seconds)
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._fault is None and not self._is_ended:
            self._fault = Fault(reason=reason)
        self._wake()

    # --- called by the loop ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.head is not None and not self._has_length and not self._is_ended and exc is None:
            self._is_ended = True
        self._fail("it ended the connection")
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        if not self._is_asked or self._is_ended:
            self.close()
            return
        if self.head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("its answer is not HTTP")
            self.close()
            return
        if self.head is None and self._head_bytes > _MAX_HEAD_BYTES:
            self._fail("the head of its answer has no end")
            self.close()

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._has_length = status in (204, 304) or any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._headers
        )
        self.head = Head(status, tuple(self._headers))
        self._wake()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._waiting_bytes += len(body)
        if self._waiting_bytes > _FULL_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            with contextlib.suppress(RuntimeError):
                self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self.head is not None:
            self._is_ended = True
            self._is_kept = bool(self._parser.should_keep_alive())
            self._wake()
