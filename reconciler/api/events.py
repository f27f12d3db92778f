"""`GET /events`: rows of the audit log as server-sent events, each with its `seq` as id, so that a reader can go on.

The log itself is what waits for a reader: a stream keeps a place in it and a page in memory, never a queue. What ends a
stream is said in a last event `end`; a reader comes back with `Last-Event-ID` and misses nothing.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reconciler.api.access import RefusedRequest
from reconciler.api.server import LINE, Line
from reconciler.errors import ReconcilerError
from reconciler.store.audit import ChainedEntry, Choice

MAX_STREAMS = 64
RETRY_MS = 2000
_AT_ONCE = 50
MEDIA_TYPE = "text/event-stream"
_HEADERS = [(b"content-type", f"{MEDIA_TYPE}; charset=utf-8".encode()), (b"cache-control", b"no-store")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the log is looked at, how often an idle stream says that it lives, how long a reader may not read."""

    poll_s: float = 0.5
    heartbeat_s: float = 15.0
    slow_s: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows after a place, in order; `seq` is up to where the log was looked at, `has_more` that it goes on at once."""

    rows: Sequence[ChainedEntry]
    seq: int
    has_more: bool


Read = Callable[[Choice], Page]


class EventCalls:
    """The endpoint. `check` raises RefusedRequest as soon as a caller may not read any more."""

    def __init__(self, read: Read, newest: Callable[[], int], check: Callable[[Request], object], pace: Pace) -> None:
        self._read, self._newest, self._check, self._pace = read, newest, check, pace
        self._open = 0

    async def events(self, request: Request) -> Response:
        if self._open >= MAX_STREAMS:
            raise RefusedRequest(f"{MAX_STREAMS} streams are open; end one, or wait", 503, {"retry-after": "30"})
        asked = request.query_params
        if request.method == "HEAD":
            return Response(media_type=MEDIA_TYPE)
        newest = await run_in_threadpool(self._newest)
        after = _place(request, newest)
        choice = Choice(
            kind=asked.get("kind", ""),
            name=asked.get("name", ""),
            action=asked.get("action", ""),
            revision=asked.get("revision", ""),
            after_seq=min(after, newest),
        )
        self._open += 1
        return _Stream(self, request, choice, was_reset=after > newest)

    def close(self) -> None:
        """A stream that was opened has ended."""
        self._open -= 1

    async def follow(self, request: Request, choice: Choice, say: Callable[[str], Any], line: Line | None) -> str:
        """Say what comes until the stream ends; why it does, for the reader."""
        try:
            return await self._follow(request, choice, say, line)
        except RefusedRequest as exc:
            return str(exc)
        except ReconcilerError as exc:
            return f"the log cannot be read: {exc}"
        except TimeoutError:
            return f"nothing was read for {self._pace.slow_s:g} seconds; come back with the last id"

    async def _follow(self, request: Request, choice: Choice, say: Callable[[str], Any], line: Line | None) -> str:
        said_at = time.monotonic()
        while line is None or not line.ending.is_set():
            self._check(request)
            page = await run_in_threadpool(self._read, choice)
            for start in range(0, len(page.rows), _AT_ONCE):
                async with asyncio.timeout(self._pace.slow_s):
                    await say("".join(map(_show_row, page.rows[start : start + _AT_ONCE])))
                said_at = time.monotonic()
            choice = replace(choice, after_seq=page.seq)
            if page.has_more:
                continue
            if time.monotonic() - said_at >= self._pace.heartbeat_s:
                async with asyncio.timeout(self._pace.slow_s):
                    await say(f": alive\nid: {page.seq}\n\n")
                said_at = time.monotonic()
            await self._pause(line)
        return "the hub ends; come back with the last id"

    async def _pause(self, line: Line | None) -> None:
        if line is None:
            await asyncio.sleep(self._pace.poll_s)
            return
        try:
            async with asyncio.timeout(self._pace.poll_s):
                await line.ending.wait()
        except TimeoutError:
            pass


class _Stream(Response):
    """The answer: as long as the caller stays."""

    def __init__(self, calls: EventCalls, request: Request, choice: Choice, *, was_reset: bool) -> None:
        self._calls, self._request, self._choice, self._was_reset = calls, request, choice, was_reset
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._stream(scope, receive, send)
        finally:
            self._calls.close()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        line: Line | None = scope.get("extensions", {}).get(LINE, {}).get(LINE)

        async def say(text: str) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await say(f"retry: {RETRY_MS}\n\n" + (_show_reset(self._choice.after_seq) if self._was_reset else ""))
        following = asyncio.ensure_future(self._calls.follow(self._request, self._choice, say, line))
        leaving = asyncio.ensure_future(_await_leaving(receive))
        try:
            await asyncio.wait((following, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (following, leaving):
                task.cancel()
            await asyncio.gather(following, leaving, return_exceptions=True)
        if following.cancelled():
            return
        last = _show("end", {"reason": following.result()}).encode()
        if line is not None:
            line.end(last)
        else:
            await send({"type": "http.response.body", "body": last, "more_body": False})


def _place(request: Request, newest: int) -> int:
    """After which seq the reader wants to go on; from now on where it does not say."""
    given = request.headers.get("last-event-id") or request.query_params.get("after", "")
    if not given:
        return newest
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise RefusedRequest(
            f"Last-Event-ID and after are the id of an event, a number, not {given[:40]!r}", status=400
        )
    return int(given)


async def _await_leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _show_row(row: ChainedEntry) -> str:
    columns = {name: getattr(row.entry, name) for name in row.entry.__dataclass_fields__}
    content = {"seq": row.seq, **columns, "prev": row.prev, "hash": row.hash}
    return f"id: {row.seq}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n"


def _show_reset(newest: int) -> str:
    """The reader knows of rows that are not there: the log is another one, as after a restore."""
    return f"id: {newest}\n" + _show("reset", {"newest": newest})


def _show(event: str, content: Mapping[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(content)}\n\n"
