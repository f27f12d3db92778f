"""The control socket: HTTP from the hub, translated to the switchboard. Each call is answered when it has taken effect.

PUT /config · PUT|DELETE /instances/<name> · POST /messages · PUT /cancels · PUT /inbox-cursor · GET /report · GET
/hints?wait=s · POST /stop. Refusals are `{"reason": "…"}` with status 400, or 404 for an unknown instance.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

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
from reconciler.router.rim import Call, Receive, Scope, Send
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
        self._endpoints: Mapping[tuple[str, str], Callable[[Call, str], Awaitable[None]]] = {
            ("PUT", "/config"): self._configure,
            ("PUT", "/instances"): self._put_instance,
            ("DELETE", "/instances"): self._remove_instance,
            ("POST", "/messages"): self._send,
            ("PUT", "/cancels"): self._set_cancels,
            ("PUT", "/inbox-cursor"): self._set_cursor,
            ("GET", "/report"): self._report,
            ("GET", "/hints"): self._hints,
            ("POST", "/stop"): self._end,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        head, _, name = scope["path"][1:].partition("/")
        endpoint = self._endpoints.get((scope["method"], f"/{head}"))
        try:
            if endpoint is None or bool(name) != (head == "instances"):
                await _refuse(call, 404, f"there is no {scope['method']} {scope['path']}")
            elif call.size_bytes is None or call.size_bytes > _MAX_BODY:
                await _refuse(call, 413, f"the body needs Content-Length, at most {_MAX_BODY}")
            else:
                await endpoint(call, name)
        except ConnectionError:
            call.line.drop()
        except RefusedError as error:
            await _refuse(call, 400, str(error))
        except Exception as error:  # noqa: BLE001 - the rim: control is told, and the router goes on
            report_exception(error, f"control plane, {scope['method']} {scope['path']}")
            await _refuse(call, 500, f"the router failed at this call ({type(error).__name__}); see its log")

    async def _configure(self, call: Call, _: str) -> None:
        await self._switchboard.configure(read_json(await call.read(), Config, "config"))
        await call.answer(200, _OK)

    async def _put_instance(self, call: Call, name: str) -> None:
        entry = read_json(await call.read(), InstanceEntry, f"instances: {name}")
        _check_name(name)
        await self._switchboard.put_instance(name, entry)
        await call.answer(200, _OK)

    async def _remove_instance(self, call: Call, name: str) -> None:
        await self._switchboard.remove_instance(name)
        await call.answer(200, _OK)

    async def _send(self, call: Call, _: str) -> None:
        own = read_json(await call.read(), HubSend, "messages")
        recipient = self._switchboard.registry.by_name.get(own.instance)
        if recipient is None:
            await _refuse(call, 404, f"there is no instance {own.instance}")
            return
        answer = await self._switchboard.send_own(recipient, own.message)
        await call.answer(answer.status, answer.body)

    async def _set_cancels(self, call: Call, _: str) -> None:
        self._switchboard.set_cancels(read_json(await call.read(), dict[str, list[Any]], "cancels"))
        await call.answer(200, _OK)

    async def _set_cursor(self, call: Call, _: str) -> None:
        self._switchboard.log.inbox_cursor = read_json(await call.read(), InboxCursor, "inbox-cursor").seq
        await call.answer(200, _OK)

    async def _report(self, call: Call, _: str) -> None:
        await call.answer(200, _encoder.encode(self._switchboard.report()))

    async def _hints(self, call: Call, _: str) -> None:
        wait_s = call.query_number("wait", 0.0, MAX_HINT_WAIT_S)
        if wait_s is None:
            await _refuse(call, 400, "wait is a number of seconds")
            return
        kinds = await self._switchboard.hints.collect(call.line, wait_s)
        await call.answer(200, _encoder.encode({"kinds": kinds}))

    async def _end(self, call: Call, _: str) -> None:
        await call.answer(200, _OK)
        self._stop()


def _check_name(name: str) -> None:
    try:
        msgspec.convert(name, type=Name)
    except msgspec.ValidationError as error:
        raise RefusedError(f"instances: {name[:80]!a} is not a name; use a-z, 0-9 and '-'") from error


async def _refuse(call: Call, status: int, reason: str) -> None:
    await call.answer(status, _encoder.encode({"reason": reason}))
