"""Requests to an HTTP server of this host over connections that are kept: one at a time on each, none without an end.

An address and the parts of requests come in; status and body go out, or a `Fault` that says why there is none.
Redirects are answers like others; nothing is tried again.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import httptools
import msgspec

from reconciler.core.address import Address, TcpAddress
from reconciler.policy.opa_answer import MAX_ANSWER_BYTES, Fault, no_answer_within
from reconciler.router.eager import Ticket

_MAX_LINES = 32
_ANOTHER_S = 1.0
"""How long a connection may take that is to replace one."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What the server said."""

    status: int
    body: bytes


Said: TypeAlias = Reply | Fault


class OpaLink:
    """The connections to one server. `on_lost` is called when the server ends one.

    What is asked while all are in use waits for the first that is free, in order.
    """

    def __init__(self, address: Address, on_lost: Callable[[], None] = lambda: None) -> None:
        self._address = address
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Line] = []
        self._waiting: deque[Ticket[_Line | Fault]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._count = 0
        self._is_closed = False
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    def head(self, target: str) -> bytes:
        """What a request for a path with its query begins with; length and body follow."""
        host = str(self._address).removeprefix("http://") if isinstance(self._address, TcpAddress) else "localhost"
        start = f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
        return start.encode("ascii")

    async def ask(self, head: bytes, body: bytes, timeout_s: float) -> Said:
        """What the server answers to this JSON within `timeout_s`, waiting for a connection included."""
        until = self._loop.time() + timeout_s
        line = self._idle.pop() if self._idle else await self._wait_for_line(timeout_s)
        if isinstance(line, Fault):
            return line
        self._at_rest.clear()
        waiter = line.ask(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        timer = self._loop.call_at(until, line.give_up, no_answer_within(timeout_s))
        try:
            return await waiter
        finally:
            timer.cancel()
            self._release(line)

    async def close(self, timeout_s: float) -> None:
        """Let what was asked be answered, for as long as `timeout_s`, then close the connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._at_rest.wait()
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def _wait_for_line(self, timeout_s: float) -> "_Line | Fault":
        """The next that is free, or a new one where there may be more."""
        ticket: Ticket[_Line | Fault] = Ticket(self._loop)
        self._waiting.append(ticket)
        timer = self._loop.call_later(timeout_s, ticket.settle, no_answer_within(timeout_s))
        if self._count < _MAX_LINES:
            self._open_one(timeout_s)
        try:
            return await ticket
        except asyncio.CancelledError:
            if not ticket.cancelled() and isinstance(found := ticket.result(), _Line):
                self._release(found)
            raise
        finally:
            timer.cancel()

    def _open_one(self, timeout_s: float) -> None:
        """In a task of its own, because whoever asks may be none, and a time-out needs one."""
        self._count += 1
        self._at_rest.clear()
        opening = self._loop.create_task(self._connect(timeout_s))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _connect(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                if isinstance(self._address, TcpAddress):
                    _, line = await self._loop.create_connection(
                        lambda: _Line(self._forget), self._address.host, self._address.port
                    )
                else:
                    _, line = await self._loop.create_unix_connection(lambda: _Line(self._forget), self._address.path)
        except TimeoutError:
            self._drop()
        except OSError as error:
            self._drop(Fault(reason=f"cannot be reached at {self._address}: {error.strerror or error}"))
        else:
            line.is_reusable = True
            self._release(line)

    def _release(self, line: "_Line") -> None:
        """To the next who waits."""
        if self._is_closed or not line.is_reusable:
            line.close()
            self._drop()
            return
        if not self._settle_next(line):
            self._idle.append(line)
        self._look_whether_at_rest()

    def _drop(self, fault: Fault | None = None) -> None:
        """One connection less. Who waits gets the fault, if there is one, and the next another connection."""
        self._count -= 1
        if fault is not None:
            self._settle_next(fault)
        if any(not ticket.done() for ticket in self._waiting):
            self._open_one(_ANOTHER_S)
        self._look_whether_at_rest()

    def _settle_next(self, found: "_Line | Fault") -> bool:
        while self._waiting:
            ticket = self._waiting.popleft()
            if not ticket.done():
                ticket.settle(found)
                return True
        return False

    def _look_whether_at_rest(self) -> None:
        if self._count == len(self._idle):
            self._at_rest.set()

    def _forget(self, line: "_Line") -> None:
        if line in self._idle:
            self._idle.remove(line)
            self._count -= 1
        self._on_lost()


class _Line(asyncio.Protocol):
    """One connection. `on_lost` is called when the other side ends it."""

    def __init__(self, on_lost: Callable[["_Line"], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: Ticket[Said] | None = None
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
        waiter.settle(
            Reply(status, b"".join(self._parts)) if status >= 200 else Fault(reason=f"it answers with status {status}")
        )

    def ask(self, request: bytes) -> Ticket[Said]:
        """What it answers to this request. While it is waited for, nothing else may be asked."""
        waiter: Ticket[Said] = Ticket(self._loop)
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
        if waiter is not None:
            waiter.settle(fault)

    def close(self) -> None:
        self._is_closed, self.is_reusable = True, False
        if self._transport is not None:
            self._transport.abort()
