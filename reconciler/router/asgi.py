"""The agent plane: HTTP on each instance's own socket, translated to the route and to the instance's mailbox.

POST /api/hub/messages[?wait=s]                    the route
GET  /api/hub/messages?wait=s&max=n&ack=cursor     poll: what there is, as soon as there is
POST /api/hub/messages/ack                         {"cursor": "…"}
GET  /api/hub/self                                 who am I, and what may I do
"""

import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from reconciler.router import identity
from reconciler.router.clock import boottime_s
from reconciler.router.mailbox import Batch
from reconciler.router.message import Deny
from reconciler.router.pipeline import Route, report_exception
from reconciler.router.registry import Instance
from reconciler.router.rim import JSON, PROBLEM, Call, Receive, Scope, Send
from reconciler.router.verdict import Answer, refused

MAX_WAIT_S = 60.0
MAX_COUNT = 1000
_ACK_BYTES = 4096

_encoder = msgspec.json.Encoder()


class _Ack(msgspec.Struct, forbid_unknown_fields=True):
    cursor: str


class AgentPlane:
    """The ASGI application. `is_stopping` answers polls at once."""

    def __init__(self, route: Route, epoch: str) -> None:
        self._route = route
        self._epoch = epoch
        self.is_stopping = False
        self._endpoints: Mapping[tuple[str, str], Callable[[Call, Instance], Awaitable[None]]] = {
            ("POST", "/api/hub/messages"): self._send,
            ("GET", "/api/hub/messages"): self._poll,
            ("POST", "/api/hub/messages/ack"): self._acknowledge,
            ("GET", "/api/hub/self"): self._show_self,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        instance: Instance = call.line.door.subject
        endpoint = self._endpoints.get((scope["method"], scope["path"]))
        try:
            if endpoint is None:
                await self._answer_unknown(call, instance, scope["path"])
            else:
                await endpoint(call, instance)
        except ConnectionError:
            call.line.drop()
        except Exception as error:  # noqa: BLE001 - the rim: nothing of it reaches the client
            report_exception(error, f"agent plane, {scope['method']} of {instance.name}")
            await self._deny(call, Deny(code="internal", step="deliver", reason="this is not the sender's fault"))

    async def _send(self, call: Call, instance: Instance) -> None:
        wait_s = call.query_number("wait", 0.0, self._route.rules.config.limits.request_timeout_s)
        if wait_s is None:
            await self._deny_query(call, instance, "wait is a number of seconds")
            return
        call.wait_s = 0.0 if self.is_stopping else wait_s
        answer = await self._route.route(instance, call)
        await _write(call, answer)

    async def _poll(self, call: Call, instance: Instance) -> None:
        if not await self._is_known(call, instance):
            return
        wait_s = call.query_number("wait", 0.0, MAX_WAIT_S)
        count = call.query_number("max", 100, MAX_COUNT)
        if wait_s is None or count is None or count < 1:
            await self._deny_query(call, instance, "wait is a number of seconds, max a number from 1")
            return
        cursor = call.query.get("ack")
        if cursor is not None and not instance.mailbox.acknowledge(cursor):
            await self._deny_query(call, instance, "ack is not a cursor that a poll returned")
            return
        batch = await self._take(call, instance, wait_s, int(count))
        body = b",".join([letter.body for letter in batch.letters])
        await call.answer(200, b'{"messages":[' + body + b'],"cursor":"' + batch.cursor.encode() + b'"}')

    async def _take(self, call: Call, instance: Instance, wait_s: float, count: int) -> Batch:
        """What there is, once there is something; nothing after `wait_s`. A caller that is gone takes nothing."""
        limits = self._route.rules.config.limits
        until = boottime_s() + wait_s
        while True:
            now = boottime_s()
            batch = instance.mailbox.take(now, count=0 if call.is_gone else count, lease_s=limits.lease_s)
            self._route.note_expired(instance, batch.expired)
            if batch.letters or now >= until or self.is_stopping or instance.is_removed or call.is_gone:
                instance.last_seen = now
                return batch
            wake_at = min(until, instance.mailbox.next_return() or until)
            reader = call.line.loop.create_future()
            instance.readers.append(reader)
            try:
                await call.line.wait(reader, wake_at - now)
            finally:
                instance.readers.remove(reader)

    async def _acknowledge(self, call: Call, instance: Instance) -> None:
        if not await self._is_known(call, instance):
            return
        if call.size_bytes is None or call.size_bytes > _ACK_BYTES:
            await self._deny_query(call, instance, 'the body is {"cursor": "…"}')
            return
        try:
            ack = msgspec.json.decode(await call.read(), type=_Ack)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            ack = _Ack("")
        if not instance.mailbox.acknowledge(ack.cursor):
            await self._deny_query(call, instance, 'the body is {"cursor": "…"}, with a cursor that a poll returned')
            return
        await call.answer(204, b"")

    async def _show_self(self, call: Call, instance: Instance) -> None:
        if not await self._is_known(call, instance):
            return
        rules = self._route.rules
        agent = rules.find_agent(instance.agent)
        face = rules.faces.get(instance.agent)
        body = {
            "agent": instance.agent,
            "instance": instance.name,
            "role": agent.role if agent else "",
            "version": agent.version if agent else "",
            "labels": agent.labels if agent else {},
            "capabilities": agent.capabilities if agent else (),
            "grants": {
                "sends": face.grants["sends"] if face else (),
                "subscribes": agent.subscribes if agent else (),
            },
            "limits": {
                "max_body_bytes": rules.config.limits.max_body_bytes,
                "lease_s": rules.config.limits.lease_s,
                "ttl_s": rules.config.limits.ttl_s,
                "request_timeout_s": rules.config.limits.request_timeout_s,
            },
            "policy_revision": rules.policy_revision,
            "revision": rules.config.revision,
            "epoch": self._epoch,
        }
        await call.answer(200, _encoder.encode(body))

    async def _is_known(self, call: Call, instance: Instance) -> bool:
        denied = identity.check(instance, call.headers, time.time())
        if denied is not None:
            self._route.log.count(instance.name, instance.agent, denied.code, denied.step)
            await self._deny(call, denied)
            return False
        instance.last_seen = boottime_s()
        return True

    async def _answer_unknown(self, call: Call, instance: Instance, path: str) -> None:
        if not await self._is_known(call, instance):
            return
        methods = [method for method, known in self._endpoints if known == path]
        status, code = (405, "method_not_allowed") if methods else (404, "not_found")
        body = {
            "type": f"urn:reconciler:problem:{code}",
            "title": code.replace("_", " "),
            "status": status,
            "code": code,
        }
        allow = [(b"allow", ", ".join(methods).encode())] if methods else []
        await call.answer(status, _encoder.encode(body), PROBLEM, allow)

    async def _deny_query(self, call: Call, instance: Instance, reason: str) -> None:
        denied = Deny(code="invalid_envelope", step="schema", reason=reason)
        self._route.log.count(instance.name, instance.agent, denied.code, denied.step)
        await self._deny(call, denied)

    async def _deny(self, call: Call, denied: Deny) -> None:
        await _write(call, refused(denied, self._route.rules))


async def _write(call: Call, answer: Answer) -> None:
    if answer.status < 400:
        await call.answer(answer.status, answer.body, JSON)
        return
    headers: list[tuple[bytes, bytes]] = []
    if answer.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % answer.retry_after_s))
    if answer.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await call.answer(answer.status, answer.body, PROBLEM, headers)
