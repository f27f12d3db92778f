"""The control socket: HTTP from the hub, translated to the switchboard. Each call is answered when it has taken effect.

PUT /config · PUT|DELETE /instances/<name> · POST /messages · POST /batches · PUT /cancels · PUT /inbox-cursor ·
GET /report · GET /hints?wait=s · POST /stop. Refusals are `{"reason": "…"}` with status 400, or 404 for an unknown
instance.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from reconciler.router.answer import Answer
from reconciler.router.config import (
    Config,
    HubSend,
    InboxCursor,
    InstanceEntry,
    Name,
    RefusedError,
    read_json,
)
from reconciler.router.pipeline import report_exception
from reconciler.router.rim import Call, Receive, Scope, Send, serve
from reconciler.router.switchboard import Switchboard

MAX_HINT_WAIT_S = 600.0
_MAX_BODY = 256 * 2**20

_encoder = msgspec.json.Encoder()
_OK = b'{"ok":true}'


class ControlPlane:
    """The ASGI application. `stop` begins the end of the process."""

    def __init__(self, switchboard: Switchboard, stop: Callable[[], None]) -> None:
        self._switchboard = switchboard
        self._stop = stop
        self._endpoints: Mapping[tuple[str, str], Callable[[Call, str], Awaitable[Answer]]] = {
            ("PUT", "/config"): self._configure,
            ("PUT", "/instances"): self._put_instance,
            ("DELETE", "/instances"): self._remove_instance,
            ("POST", "/messages"): self._send,
            ("POST", "/batches"): self._send_all,
            ("PUT", "/cancels"): self._set_cancels,
            ("PUT", "/inbox-cursor"): self._set_cursor,
            ("GET", "/report"): self._report,
            ("GET", "/hints"): self._hints,
            ("POST", "/stop"): self._end,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(self._answer, scope, receive, send)

    async def _answer(self, call: Call) -> Answer:
        head, _, name = call.path[1:].partition("/")
        endpoint = self._endpoints.get((call.method, f"/{head}"))
        try:
            if endpoint is None or bool(name) != (head == "instances"):
                return _refuse(404, f"there is no {call.method} {call.path}")
            if call.size_bytes is None or call.size_bytes > _MAX_BODY:
                return _refuse(413, f"the body needs Content-Length, at most {_MAX_BODY}")
            return await endpoint(call, name)
        except ConnectionError:
            raise
        except RefusedError as error:
            return _refuse(400, str(error))
        except Exception as error:  # noqa: BLE001 - the rim: control is told, and the router goes on
            report_exception(error, f"control plane, {call.method} {call.path}")
            return _refuse(500, f"the router failed at this call ({type(error).__name__}); see its log")

    async def _configure(self, call: Call, _: str) -> Answer:
        await self._switchboard.configure(read_json(await call.read(), Config, "config"))
        return Answer(200, _OK)

    async def _put_instance(self, call: Call, name: str) -> Answer:
        entry = read_json(await call.read(), InstanceEntry, f"instances: {name}")
        _check_name(name)
        await self._switchboard.put_instance(name, entry)
        return Answer(200, _OK)

    async def _remove_instance(self, _call: Call, name: str) -> Answer:
        await self._switchboard.remove_instance(name)
        return Answer(200, _OK)

    async def _send(self, call: Call, _: str) -> Answer:
        order = read_json(await call.read(), HubSend, "messages")
        try:
            return await self._switchboard.send_own(order)
        except LookupError as error:
            return _refuse(404, str(error.args[0]))

    async def _send_all(self, call: Call, _: str) -> Answer:
        """Each by itself, but together in the log. Where it could not be written, that is the answer to all."""
        orders = read_json(await call.read(), list[HubSend], "batches")
        answers = await asyncio.gather(*map(self._send_one, orders))
        for answer in answers:
            if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                return answer
        refused = ["" if a.status < HTTPStatus.BAD_REQUEST else _reason(a) for a in answers]
        return Answer(200, _encoder.encode({"refused": refused}))

    async def _send_one(self, order: HubSend) -> Answer:
        try:
            return await self._switchboard.send_own(order)
        except RefusedError as error:
            return _refuse(400, str(error))
        except LookupError as error:
            return _refuse(404, str(error.args[0]))

    async def _set_cancels(self, call: Call, _: str) -> Answer:
        self._switchboard.set_cancels(read_json(await call.read(), dict[str, list[Any]], "cancels"))
        return Answer(200, _OK)

    async def _set_cursor(self, call: Call, _: str) -> Answer:
        self._switchboard.log.inbox_cursor = read_json(await call.read(), InboxCursor, "inbox-cursor").seq
        return Answer(200, _OK)

    async def _report(self, _call: Call, _: str) -> Answer:
        return Answer(200, _encoder.encode(self._switchboard.report()))

    async def _hints(self, call: Call, _: str) -> Answer:
        wait_s = call.query_number("wait", 0.0, MAX_HINT_WAIT_S)
        if wait_s is None:
            return _refuse(400, "wait is a number of seconds")
        kinds = await self._switchboard.hints.collect(call.line, wait_s)
        return Answer(200, _encoder.encode({"kinds": kinds}))

    async def _end(self, _call: Call, _: str) -> Answer:
        self._stop()
        return Answer(200, _OK)


def _check_name(name: str) -> None:
    try:
        msgspec.convert(name, type=Name)
    except msgspec.ValidationError as error:
        raise RefusedError(f"instances: {name[:80]!a} is not a name; use a-z, 0-9 and '-'") from error


def _reason(answer: Answer) -> str:
    return str(msgspec.json.decode(answer.body)["reason"])


def _refuse(status: int, reason: str) -> Answer:
    return Answer(status, _encoder.encode({"reason": reason}))
