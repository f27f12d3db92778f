"""The relay: HTTP on each instance's own socket, passed on to the provider of its route. Each step may refuse.

request -> identity -> route (sensitivity) -> body -> policy -> budget -> breaker -> key -> provider -> usage

POST /llm/anthropic/v1/messages[/count_tokens]    POST /llm/openai/v1/chat/completions
GET  /llm/anthropic/v1/models                     GET  /llm/openai/v1/models

An answer is passed on byte for byte, as it comes. Nothing of a request or an answer is logged.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Sequence

from reconciler.core.decision import Decision
from reconciler.egress.body import Asked, read_body
from reconciler.egress.config import Costs
from reconciler.egress.identity import check_identity
from reconciler.egress.instance import Instance
from reconciler.egress.ledger import Row
from reconciler.egress.models import list_models
from reconciler.egress.problem import Api, Deny, refuse
from reconciler.egress.provider import Provider
from reconciler.egress.question import write_question
from reconciler.egress.route import Way, check_model, find_way
from reconciler.egress.switchboard import Switchboard
from reconciler.egress.upstream import Fault, Head, Link
from reconciler.egress.usage import Meter, Usage, cost_of
from reconciler.router.answer import Answer, Header, find_header
from reconciler.router.clock import Minutes
from reconciler.router.rim import Call, Receive, Scope, Send, asgi_call, send_answer

RUN_HEADER = b"hub-run"
_MAX_REASON = 1000
_SLOWED = frozenset({401, 403, 429})
"""Whoever goes on to be told this is read slowly."""
_POSTS: dict[str, Api] = {
    "/llm/anthropic/v1/messages": "anthropic",
    "/llm/anthropic/v1/messages/count_tokens": "anthropic",
    "/llm/openai/v1/chat/completions": "openai",
}
_MODELS: dict[str, Api] = {"/llm/anthropic/v1/models": "anthropic", "/llm/openai/v1/models": "openai"}
_FREE = "/llm/anthropic/v1/messages/count_tokens"
_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect", b"proxy-connection")
)
_NOT_SENT = _HOP | {
    *(b"host", b"content-length", b"accept-encoding", b"authorization", b"x-api-key", b"cookie", b"via", b"forwarded"),
    *(b"proxy-authorization", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
}
_NOT_RETURNED = _HOP | {b"set-cookie", b"alt-svc", b"www-authenticate", b"proxy-authenticate"}

_LOG = logging.getLogger("reconciler.egress")


class Relay:
    """The ASGI application."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._minutes = Minutes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = asgi_call(scope, receive)
        instance: Instance = call.line.door.subject
        api = _POSTS.get(call.path) or _MODELS.get(call.path) or _guess_api(call.path)
        try:
            answer = await self._answer(call, instance, api, scope["query_string"], send)
            if isinstance(answer, Deny):
                instance.denied[answer.code] += 1
                if answer.status in _SLOWED:
                    call.note_denial(call.line.loop.time())
                answer = refuse(answer, api)
            if answer is not None:
                await send_answer(send, call, answer)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            call.line.drop()
        except Exception as error:  # noqa: BLE001 - the rim: nothing of it reaches the caller
            trace = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("%s in a request of %s\n%s", type(error).__name__, instance.name, trace)
            call.line.drop()

    async def _answer(self, call: Call, instance: Instance, api: Api, query: bytes, send: Send) -> Answer | Deny | None:
        """None where the answer has been passed on already. Raises ConnectionError, TimeoutError."""
        switchboard = self._switchboard
        if call.method == "HEAD":
            return Answer(204, b"")  # whether anybody is here, asked without a token
        if (denied := check_identity(instance.tokens, call.headers, time.time())) is not None:
            return denied
        is_post, is_models = call.path in _POSTS, call.path in _MODELS
        if not is_post and not is_models:
            return Deny(status=404, code="not_found", reason="there is no such path here")
        if call.method != ("POST" if is_post else "GET"):
            return Deny(status=405, code="method_not_allowed", reason=f"use {'POST' if is_post else 'GET'}")
        way = find_way(switchboard.config, instance.entry, api)
        if isinstance(way, Deny):
            return way
        if is_models:
            return list_models(way, api)
        limits = switchboard.config.limits
        if instance.under_way >= limits.parallel:
            reason = f"{limits.parallel} requests of this instance are under way"
            return Deny(status=429, code="too_many", reason=reason, retry_after_s=1)
        instance.under_way += 1
        try:
            return await self._relay(call, instance, way, api, query, send)
        finally:
            instance.under_way -= 1

    async def _relay(
        self, call: Call, instance: Instance, way: Way, api: Api, query: bytes, send: Send
    ) -> Answer | Deny | None:
        switchboard = self._switchboard
        asked = await _read(call, api, switchboard.config.limits.max_body_bytes)
        if isinstance(asked, Deny):
            return asked
        if (denied := check_model(way, asked.model)) is not None:
            return denied
        run, task = instance.find_run(find_header(call.headers, RUN_HEADER))
        minute = self._minutes.show(time.time())
        question = write_question(
            switchboard.config,
            instance,
            way,
            asked,
            api=api,
            work=(run, task),
            budgets=switchboard.budgets,
            minute=minute,
        )
        decision = await switchboard.policy.decide(question)
        job = _Job(call=call, instance=instance, way=way, work=(run, task), decision=decision, asked=asked)
        if not decision.allow:
            switchboard.ledger.add_denial(job.write_row(Usage(), 0.0))
            return _deny(decision)
        # What was true when the request came may have changed while its body was read, or policy asked.
        if find_way(switchboard.config, instance.entry, api) != way or not instance.tokens:
            return Deny(status=409, code="changed", reason="the configuration changed meanwhile; try again")
        is_free = call.path == _FREE
        if not is_free and (denied := switchboard.budgets.check(instance.entry, run)) is not None:
            return denied
        provider = switchboard.providers[way.name]
        if (denied := provider.check()) is not None:
            return denied
        key = provider.read_key()
        if isinstance(key, Deny):
            return key
        target = call.path.removeprefix(f"/llm/{api}").encode() + (b"?" + query if query else b"")
        head = _write_head(provider, target, [*_pass_headers(call.headers), *([key] if key else [])], asked)
        costs = Costs() if is_free else way.provider.models[way.model]
        held = switchboard.budgets.hold(instance.entry, run, 0 if is_free else asked.tokens, costs)
        try:
            return await job.run(provider, head + asked.content, send)
        finally:
            usage = Usage() if is_free else job.usage
            cost = cost_of(usage, costs)
            switchboard.budgets.settle(held, usage.total, cost)
            switchboard.ledger.add(job.write_row(usage, cost))


class _Job:
    """One request at its provider, and what became of it."""

    def __init__(
        self,
        *,
        call: Call,
        instance: Instance,
        way: Way,
        work: tuple[str | None, str | None],
        decision: Decision,
        asked: Asked,
    ) -> None:
        self._call = call
        self._instance = instance
        self._way = way
        self._run, self._task = work
        self._decision = decision
        self._asked = asked
        self._began_s = call.line.loop.time()
        self._first_byte_s: float | None = None
        self._status = 0
        self._meter: Meter | None = None
        self._is_whole = False

    async def run(self, provider: Provider, request: bytes, send: Send) -> Deny | None:
        """Ask, and pass the answer on. Raises ConnectionError where nobody is to be answered, or not all of it came."""
        limits, call = provider.limits, self._call
        head_s = limits.first_byte_s if self._asked.is_stream else limits.whole_s
        link = await provider.upstream.ask(request, call.line.wait, head_s)
        if call.is_gone:
            if isinstance(link, Link):
                link.close()
            raise ConnectionError("the caller went away")
        if isinstance(link, Fault):
            provider.fail(link.reason)
            status, code = (504, "provider_timeout") if link.is_timeout else (502, "provider_failed")
            return Deny(status=status, code=code, reason=f"{provider.name}: {link.reason}")
        try:
            return await self._pass_on(provider, link, send)
        finally:
            provider.upstream.release(link)

    async def _pass_on(self, provider: Provider, link: Link, send: Send) -> Deny | None:
        assert link.head is not None
        head = link.head
        self._first_byte_s = self._call.line.loop.time()
        self._status = head.status
        if (denied := _judge(provider, head)) is not None:
            return denied
        is_stream = find_header(head.headers, b"content-type").startswith(b"text/event-stream")
        self._meter = Meter(is_stream=is_stream, sent_bytes=len(self._asked.content))
        headers = [(name, value) for name, value in head.headers if name not in _NOT_RETURNED]
        await send({"type": "http.response.start", "status": head.status, "headers": headers})
        idle_s = provider.limits.idle_s
        while True:
            content = await link.read(self._call.line.wait, idle_s)
            if self._call.is_gone:
                raise ConnectionError("the caller went away")
            if isinstance(content, Fault):
                provider.fail(f"in the middle of an answer: {content.reason}")
                raise ConnectionError("the answer has no end")
            self._meter.feed(content)
            self._is_whole = not content
            async with asyncio.timeout(idle_s):
                await send({"type": "http.response.body", "body": content, "more_body": bool(content)})
            if not content:
                return None

    @property
    def usage(self) -> Usage:
        """Nothing for errors; an estimate where the answer did not come to its end."""
        if not 200 <= self._status < 300 or self._meter is None:
            return Usage()
        return self._meter.settle(is_whole=self._is_whole)

    def write_row(self, usage: Usage, cost: float) -> Row:
        """The row of the ledger, with the verdict."""
        now_s, first_s, decision = self._call.line.loop.time(), self._first_byte_s, self._decision
        return Row(
            time=time.time(),
            agent=self._instance.entry.agent,
            instance=self._instance.name,
            run=self._run,
            task=self._task,
            provider=self._way.name,
            model=self._way.model,
            status=self._status,
            input=usage.input,
            output=usage.output,
            cache_read=usage.cache_read,
            cache_write=usage.cache_write,
            is_estimate=usage.is_estimate,
            cost=cost,
            first_byte_ms=None if first_s is None else round(1000 * (first_s - self._began_s), 3),
            whole_ms=round(1000 * (now_s - self._began_s), 3),
            denied="" if decision.allow else _show_reasons(decision),
            engine=decision.engine,
            policy_revision=decision.revision,
            cached=decision.cached,
        )


def _judge(provider: Provider, head: Head) -> Deny | None:
    """Note how the provider is. Answers about the operator's key, which may show some of it, are not passed on."""
    if head.status in (401, 403):
        provider.succeed()
        provider.fault = f"it refuses the operator's key (status {head.status})"
        return Deny(status=502, code="provider_refused", reason=f"{provider.name}: {provider.fault}")
    if head.status < 200 or 300 <= head.status < 400:
        reason = f"it answers with status {head.status}, which is not passed on"
        return Deny(status=502, code="provider_failed", reason=f"{provider.name}: {reason}")
    if head.status >= 500:
        provider.fail(f"it answers with status {head.status}")
    else:
        provider.succeed()
    return None


def _deny(decision: Decision) -> Deny:
    if decision.engine == "none":
        return Deny(status=503, code="policy_unavailable", reason=_show_reasons(decision), retry_after_s=1)
    return Deny(status=403, code="policy", reason=f"policy does not allow it: {_show_reasons(decision)}")


def _show_reasons(decision: Decision) -> str:
    return "; ".join(decision.reasons)[:_MAX_REASON] or "no reason is given"


async def _read(call: Call, api: Api, most_bytes: int) -> Asked | Deny:
    if call.size_bytes is None:
        return Deny(status=411, code="length_required", reason="the body needs Content-Length")
    if call.size_bytes > most_bytes:
        return Deny(status=413, code="too_large", reason=f"the body may have {most_bytes} bytes")
    return read_body(await call.read(), counts_stream=api == "openai")


def _pass_headers(headers: Sequence[Header]) -> Sequence[Header]:
    """What of the caller's headers the provider gets: all but those of this connection, and those that show who."""
    return [(n, v) for n, v in headers if n not in _NOT_SENT and not n.startswith(b"hub-") and b"\n" not in v]


def _write_head(provider: Provider, target: bytes, headers: Sequence[Header], asked: Asked) -> bytes:
    """The head of the request as the provider gets it. Answers come as they are, not compressed, to be counted."""
    url = provider.upstream.url
    lines = [
        b"POST %b%b HTTP/1.1\r\nhost: %b\r\n" % (url.base.encode(), target, url.host.encode()),
        *(b"%b: %b\r\n" % header for header in headers),
        b"accept-encoding: identity\r\ncontent-length: %d\r\n\r\n" % len(asked.content),
    ]
    return b"".join(lines)


def _guess_api(path: str) -> Api:
    return "openai" if path.startswith("/llm/openai/") else "anthropic"
