"""The agent plane: HTTP on each instance's own socket, translated to the route and to the instance's mailbox.

Plain requests come from the line itself, all others by ASGI; the same endpoints answer both.

POST /api/hub/messages[?wait=s]                    the route
GET  /api/hub/messages?wait=s&max=n&ack=cursor     poll: what there is, as soon as there is; with &only=tasks the
                                                   hub's orders, where the daemon said that it takes no more
POST /api/hub/messages/ack                         {"cursor": "…"}
GET  /api/hub/self                                 who am I, and what may I do
"""

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from reconciler.router import identity, rate
from reconciler.router.answer import PROBLEM, Answer, Header, find_header
from reconciler.router.clock import boottime_s
from reconciler.router.cloudevents import BATCH_MEDIA_TYPE, write_event
from reconciler.router.config import AgentEntry
from reconciler.router.line import Line
from reconciler.router.mailbox import Batch, Letter, Mailbox
from reconciler.router.message import Deny
from reconciler.router.pipeline import Route, report_exception
from reconciler.router.registry import Instance
from reconciler.router.rim import Call, Receive, Scope, Send, plain_call, serve
from reconciler.router.verdict import refused

MAX_WAIT_S = 60.0
MAX_COUNT = 1000
_ACK_BYTES = 4096
_SEND_QUERY = frozenset({"wait"})
_POLL_QUERY = frozenset({"wait", "max", "ack", "only"})
_ORDERS = "tasks"

_encoder = msgspec.json.Encoder()


class _Ack(msgspec.Struct, forbid_unknown_fields=True):
    cursor: str


class AgentPlane:
    """The ASGI application, and `answer_plain` beside it. `is_stopping` answers polls at once."""

    def __init__(self, route: Route, epoch: str) -> None:
        self._route = route
        self._epoch = epoch
        self.is_stopping = False
        self._endpoints: Mapping[tuple[str, str], Callable[[Call, Instance], Coroutine[Any, None, Answer]]] = {
            ("POST", "/api/hub/messages"): self._send,
            ("GET", "/api/hub/messages"): self._poll,
            ("POST", "/api/hub/messages/ack"): self._acknowledge,
            ("GET", "/api/hub/self"): self._show_self,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(self._answer, scope, receive, send)

    def answer_plain(
        self, line: Line, method: bytes, url: bytes, headers: Sequence[Header], body: bytes
    ) -> Coroutine[Any, None, Answer]:
        """The answer to a request that is here as a whole. Raises ConnectionError where there is nobody to answer."""
        return self._answer(plain_call(line, method, url, headers, body))

    async def _answer(self, call: Call) -> Answer:
        instance: Instance = call.line.door.subject
        endpoint = self._endpoints.get((call.method, call.path))
        try:
            if endpoint is None:
                return self._answer_unknown(call, instance)
            return await endpoint(call, instance)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the rim: nothing of it reaches the client
            report_exception(error, f"agent plane, {call.method} of {instance.name}")
            return self._deny(Deny(code="internal", step="deliver", reason="this is not the sender's fault"))

    async def _send(self, call: Call, instance: Instance) -> Answer:
        wait_s = call.query_number("wait", 0.0, self._route.rules.config.limits.request_timeout_s)
        if wait_s is None or not call.query.keys() <= _SEND_QUERY:
            return self._deny_query(instance, "the query may hold wait, a number of seconds")
        call.wait_s = 0.0 if self.is_stopping else wait_s
        answer = await self._route.route(instance, call)
        peers = self._route.peers
        if peers is None or instance.agent not in peers or answer.status != HTTPStatus.OK:
            return answer
        sealed = peers.seal(answer.body, time.time())
        if sealed is None:
            reason = "the reply cannot be signed: it has an inexact number, or too many values"
            return self._deny(Deny(code="internal", step="deliver", reason=reason))
        return Answer(200, sealed, content_type=identity.SIGNED)

    async def _poll(self, call: Call, instance: Instance) -> Answer:
        if (denied := self._check_identity(call, instance)) is not None:
            return denied
        wait_s = call.query_number("wait", 0.0, MAX_WAIT_S)
        count = call.query_number("max", 100, MAX_COUNT)
        only = call.query.get("only", _ORDERS)
        if wait_s is None or count is None or count < 1 or only != _ORDERS or not call.query.keys() <= _POLL_QUERY:
            reason = (
                "the query may hold wait, a number of seconds, max, a number from 1, ack, a cursor, "
                "and only, which is tasks"
            )
            return self._deny_query(instance, reason)
        cursor = call.query.get("ack")
        if cursor is not None and not instance.acknowledge(cursor):
            return self._deny_query(instance, "ack is not a cursor that a poll returned")
        mailbox = instance.orders if "only" in call.query else instance.mailbox
        batch = await self._take(call, instance, mailbox, wait_s, int(count))
        bodies = self._show_letters(instance, batch.letters)
        if find_header(call.headers, b"accept") == BATCH_MEDIA_TYPE:
            events = b",".join([write_event(body) for body in bodies])
            return Answer(200, b"[" + events + b"]", ((b"hub-cursor", batch.cursor.encode()),), BATCH_MEDIA_TYPE)
        return Answer(200, b'{"messages":[' + b",".join(bodies) + b'],"cursor":"' + batch.cursor.encode() + b'"}')

    def _show_letters(self, instance: Instance, letters: Sequence[Letter]) -> Sequence[bytes]:
        """The messages as the reader gets them; for a peer signed, without those that cannot be."""
        peers = self._route.peers
        if peers is None or instance.agent not in peers:
            return [letter.body for letter in letters]
        wall_s = time.time()
        sealed = [(letter, peers.seal(letter.body, wall_s)) for letter in letters]
        self._route.note_unsigned(instance, [letter for letter, body in sealed if body is None])
        return [body for _, body in sealed if body is not None]

    async def _take(self, call: Call, instance: Instance, mailbox: Mailbox, wait_s: float, count: int) -> Batch:
        """What there is, once there is something; nothing after `wait_s`. A caller that is gone takes nothing."""
        limits = self._route.rules.config.limits
        until = boottime_s() + wait_s
        while True:
            now = boottime_s()
            batch = mailbox.take(now, count=0 if call.is_gone else count, lease_s=limits.lease_s)
            self._route.note_expired(instance, batch.expired)
            if batch.letters or now >= until or self.is_stopping or instance.is_removed or call.is_gone:
                instance.note_call(now, is_daemon=mailbox is instance.orders)
                return batch
            wake_at = min(until, mailbox.next_return() or until)
            reader = (mailbox, call.line.loop.create_future())
            instance.readers.append(reader)
            try:
                await call.line.wait(reader[1], wake_at - now)
            finally:
                instance.readers.remove(reader)

    async def _acknowledge(self, call: Call, instance: Instance) -> Answer:
        if (denied := self._check_identity(call, instance)) is not None:
            return denied
        if call.size_bytes is None or call.size_bytes > _ACK_BYTES:
            return self._deny_query(instance, 'the body is {"cursor": "…"}')
        try:
            ack = msgspec.json.decode(await call.read(), type=_Ack)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            ack = _Ack("")
        if not instance.acknowledge(ack.cursor):
            return self._deny_query(instance, 'the body is {"cursor": "…"}, with a cursor that a poll returned')
        return Answer(204, b"")

    async def _show_self(self, call: Call, instance: Instance) -> Answer:
        if (denied := self._check_identity(call, instance)) is not None:
            return denied
        rules, peers, now = self._route.rules, self._route.peers, boottime_s()
        agent = rules.find_agent(instance.agent)
        face = rules.faces.get(instance.agent)
        quotas = rules.find_quotas(instance.agent)
        body: dict[str, Any] = {
            "agent": instance.agent,
            "instance": instance.name,
            "role": agent.role if agent else "",
            "version": agent.version if agent else "",
            "labels": agent.labels if agent else {},
            "capabilities": _show_capabilities(instance, agent),
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
            "quota_left": rate.find_allowance(instance, quotas, now).left(now) if quotas else None,
            "policy_revision": rules.policy_revision,
            "revision": rules.config.revision,
            "epoch": self._epoch,
        }
        if peers is not None and instance.agent in peers:
            body["hub_public_key"] = peers.public_key
        return Answer(200, _encoder.encode(body), rate.show_fields(instance, quotas, now) if quotas else ())

    def _check_identity(self, call: Call, instance: Instance) -> Answer | None:
        """The denial of an unknown caller, or None."""
        denied = identity.check(instance, call.headers, time.time())
        if denied is not None:
            self._route.log.count(instance.name, instance.agent, denied.code, denied.step)
            instance.note_denial(denied)
            return self._deny(denied)
        instance.note_call(boottime_s(), is_daemon="only" in call.query)
        return None

    def _answer_unknown(self, call: Call, instance: Instance) -> Answer:
        if (denied := self._check_identity(call, instance)) is not None:
            return denied
        methods = [method for method, known in self._endpoints if known == call.path]
        status, code = (405, "method_not_allowed") if methods else (404, "not_found")
        body = {
            "type": f"urn:reconciler:problem:{code}",
            "title": code.replace("_", " "),
            "status": status,
            "code": code,
        }
        allow = ((b"allow", ", ".join(methods).encode()),) if methods else ()
        return Answer(status, _encoder.encode(body), allow, PROBLEM)

    def _deny_query(self, instance: Instance, reason: str) -> Answer:
        denied = Deny(code="invalid_envelope", step="schema", reason=reason)
        self._route.log.count(instance.name, instance.agent, denied.code, denied.step)
        return self._deny(denied)

    def _deny(self, denied: Deny) -> Answer:
        return refused(denied, self._route.rules)


def _show_capabilities(instance: Instance, agent: AgentEntry | None) -> Sequence[str]:
    """Those of its agent, unless it was made with less."""
    if instance.capabilities is not None:
        return instance.capabilities
    return agent.capabilities if agent else ()
