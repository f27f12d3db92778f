"""The control socket: HTTP from the hub, translated to the switchboard. Each call is answered when it has taken effect.

PUT /config · PUT|DELETE /instances/<name> · GET /report · POST /stop. Refusals are `{"reason": "…"}` with status 400.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from reconciler.egress.config import Config, InstanceEntry, Name, RefusedError, read_json
from reconciler.egress.switchboard import Switchboard
from reconciler.router.answer import Answer
from reconciler.router.rim import Call, Receive, Scope, Send, serve

_MAX_BODY = 64 * 2**20
_encoder = msgspec.json.Encoder()
_OK = b'{"ok":true}'
_LOG = logging.getLogger("reconciler.egress")


class ControlPlane:
    """The ASGI application. `stop` begins the end of the process."""

    def __init__(self, switchboard: Switchboard, stop: Callable[[], None]) -> None:
        self._switchboard = switchboard
        self._stop = stop
        self._endpoints: Mapping[tuple[str, str], Callable[[Call, str], Awaitable[Answer]]] = {
            ("PUT", "/config"): self._configure,
            ("PUT", "/instances"): self._put_instance,
            ("DELETE", "/instances"): self._remove_instance,
            ("GET", "/report"): self._report,
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
        except Exception as error:  # noqa: BLE001 - the rim: control is told, and the process goes on
            trace = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("%s in the control plane, %s %s\n%s", type(error).__name__, call.method, call.path, trace)
            return _refuse(500, f"egress failed at this call ({type(error).__name__}); see its log")

    async def _configure(self, call: Call, _: str) -> Answer:
        await self._switchboard.configure(read_json(await call.read(), Config, "config"))
        return Answer(200, _OK)

    async def _put_instance(self, call: Call, name: str) -> Answer:
        entry = read_json(await call.read(), InstanceEntry, f"instances: {name}")
        try:
            msgspec.convert(name, type=Name)
        except msgspec.ValidationError as error:
            raise RefusedError(f"instances: {name[:80]!a} is not a name; use a-z, 0-9 and '-'") from error
        await self._switchboard.put_instance(name, entry)
        return Answer(200, _OK)

    async def _remove_instance(self, _call: Call, name: str) -> Answer:
        await self._switchboard.remove_instance(name)
        return Answer(200, _OK)

    async def _report(self, _call: Call, _: str) -> Answer:
        return Answer(200, _encoder.encode(self._switchboard.report()))

    async def _end(self, _call: Call, _: str) -> Answer:
        self._stop()
        return Answer(200, _OK)


def _refuse(status: int, reason: str) -> Answer:
    return Answer(status, _encoder.encode({"reason": reason}))
