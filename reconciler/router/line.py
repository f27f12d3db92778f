"""One connection: uvicorn's HTTP protocol, with a shorter way for plain requests.

A plain request came in one piece, by HTTP/1.1 and with its length, after the answer to the one before. Its answer is
worked out at once (`eager.py`) and written in one piece; where its head is that of the one before, it is not parsed
again (`head.py`). All others go through ASGI, which knows bodies in pieces and
in chunks, `Expect`, pipelined requests, callers that do not read, and connections that end with the answer.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reconciler.router.answer import Answer, Header, write_answer
from reconciler.router.buckets import LineDenials
from reconciler.router.eager import Eager
from reconciler.router.head import Head, learn_head

if TYPE_CHECKING:
    from reconciler.router.listener import Door

_MAX_HEAD_BYTES = 64 * 1024
_HEAD_S = 30.0
_ODD_HEADERS: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"connection"})
_PLAIN_METHODS: Final = frozenset({b"POST", b"GET"})

AnswerPlain: TypeAlias = Callable[["Line", bytes, bytes, Sequence[Header], bytes], Coroutine[Any, None, Answer]]
"""From a line, method, URL, headers and body to the answer. Raises ConnectionError where nobody is to be answered."""


class HttpConfig(Config):
    """uvicorn's settings, of which the protocol class reads only a few, and what answers plain requests."""

    answer_plain: AnswerPlain | None = None


class _Plain:
    """The plain request of a line, as uvicorn's protocol sees the request that is under way."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = True

    @property
    def message_event(self) -> "_Plain":
        """What uvicorn sets to wake a reader of the body; here nobody waits for one."""
        return self

    def set(self) -> None:
        pass


class Line(HttpToolsProtocol):
    """One connection. One past the door's bound is closed at once; so is one with endless headers."""

    def __init__(self, door: "Door", config: HttpConfig) -> None:
        super().__init__(config, door.state, {"line": self}, _loop=door.loop)
        self.door = door
        self.is_lost = False
        self._answer_plain = config.answer_plain
        self._plain: Any = _Plain()
        self._running: Eager[Answer] | None = None
        self._head: Head | None = None
        self._is_between = True
        self._is_in_head = True
        self._head_since = door.loop.time()
        self._head_bytes = 0
        self._is_odd = False
        self._is_held = False
        self._has_plain = False
        self._body = b""
        self._is_idle = False
        self._idle_since = 0.0
        self._waiter: asyncio.Future[Any] | None = None
        self._denials: LineDenials | None = None
        self._pause: asyncio.TimerHandle | None = None

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.door.max_lines or self.door.is_closed:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._pause is not None:
            self._pause.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.app_state = {}

    def drop(self) -> None:
        """Close without waiting for what is still to be written."""
        self.transport.abort()

    def drop_slow(self, loop_s: float) -> None:
        """Close it if a head, the first one from the beginning of the connection, is not here after a while."""
        if self._is_in_head and loop_s - self._head_since > _HEAD_S:
            self.drop()

    def note_denial(self, now: float) -> None:
        """Who is on it sends more than it may. When that goes on, nothing is read from it for a while."""
        self._denials = self._denials or LineDenials()
        pause_s = self._denials.note(now)
        if pause_s and self._pause is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._pause = self.loop.call_later(pause_s, self._read_on)

    def _read_on(self) -> None:
        self._pause = None
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    async def wait(self, waiter: "asyncio.Future[Any]", timeout_s: float) -> None:
        """Until `waiter` has a result: None after the time-out, or when the connection is lost."""
        if self.is_lost:
            _give_up(waiter)
            return
        self._waiter = waiter
        timer = self.loop.call_later(timeout_s, _give_up, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    # --- reading a request; called by the parser ---

    def data_received(self, data: bytes) -> None:
        self._is_idle = False
        head = self._head
        if head is not None and self._is_between and self._is_free():
            body = head.match(data)
            if body is not None:
                self._begin_plain(b"POST", head.url, head.headers, body)
                return
        was_between, self._has_plain = self._is_between, False
        super().data_received(data)
        if self._has_plain and was_between:
            self._head = learn_head(data, self.url, self.headers) or head
        if self._is_held:
            self._is_held = False
            if not self.transport.is_closing():
                self._begin_asgi()
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.drop()

    def on_message_begin(self) -> None:
        self._is_between = False
        self._is_in_head = True
        self._head_since = self.loop.time()
        self._head_bytes = 0
        self._is_odd = False
        self._body = b""
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _ODD_HEADERS:
            self._is_odd = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self._is_plain():
            self._is_held = True
        else:
            self._begin_asgi()

    def on_body(self, body: bytes) -> None:
        if self._is_held:
            self._body = self._body + body if self._body else body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_between = True
        if self._is_held:
            self._is_held = False
            self._has_plain = True
            self._begin_plain(self.parser.get_method(), self.url, self.headers, self._body)
        else:
            super().on_message_complete()

    def _is_plain(self) -> bool:
        """Whether it may go the shorter way, provided that its body is here too."""
        parser, url = self.parser, self.url
        return (
            not self._is_odd
            and self._answer_plain is not None
            and self._is_free()
            and parser.should_keep_alive()  # as HTTP/1.1 does without a header that says so
            and parser.get_method() in _PLAIN_METHODS
            and url.startswith(b"/")
            and url.isascii()
            and b"%" not in url
            and b"#" not in url
        )

    def _is_free(self) -> bool:
        """Whether all that came before is answered, and the caller reads its answers."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and not self.flow.write_paused and not self.transport.is_closing()

    # --- answering it ---

    def _begin_asgi(self) -> None:
        """Let uvicorn have the request as far as it is here."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        if self._body:
            super().on_body(self._body)

    def _begin_plain(self, method: bytes, url: bytes, headers: Sequence[Header], body: bytes) -> None:
        assert self._answer_plain is not None
        plain = self.cycle = self._plain
        plain.response_complete = False
        running = Eager(self._answer_plain(self, method, url, headers, body), self._end_plain)
        if not running.is_done:
            self._running = running
            self.door.running.add(running)

    def _end_plain(self, answer: Answer | None) -> None:
        if self._running is not None:
            self.door.running.discard(self._running)
            self._running = None
        self._plain.response_complete = True
        if answer is None:
            self.drop()
        elif not self.transport.is_closing():
            is_last = not self._plain.keep_alive
            self.transport.write(write_answer(answer, is_last=is_last))
            if is_last:
                self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but with one timer while the connection lasts and not one per answer."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._is_idle = True
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idle(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """The timer goes on while there is a connection; whether that is idle is seen when it ends."""
        if self.is_lost and self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if not self._is_idle:
            return
        left_s = self.timeout_keep_alive - (self.loop.time() - self._idle_since)
        if left_s > 0:
            self._watch_idle(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _watch_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


def _give_up(waiter: "asyncio.Future[Any]") -> None:
    if not waiter.done():
        waiter.set_result(None)
