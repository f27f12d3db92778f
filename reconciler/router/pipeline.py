"""The route: message -> identity -> rate -> schema -> policy -> log -> deliver.

An inbound request goes in, the answer to its sender comes out. The first denial ends it, an exception in a step is a
denial, and each verdict is on disk before anything is delivered or answered; only denials of the first two steps and
repeated ids are counted, into one row per second, so that a flood cannot fill the disk.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from reconciler.core.decision import Decision
from reconciler.router import deliver, hub, identity, rate, schema
from reconciler.router.clock import boottime_s
from reconciler.router.deliver import Places, Target
from reconciler.router.log import TrafficLog
from reconciler.router.mailbox import Letter
from reconciler.router.message import (
    HUB,
    Deny,
    Message,
    parse_message,
)
from reconciler.router.policy import Judge
from reconciler.router.registry import Instance, Registry
from reconciler.router.requests import Request, Requests
from reconciler.router.rules import Rules
from reconciler.router.traffic import InboxEntry, Row
from reconciler.router.verdict import (
    Answer,
    accepted,
    describe_decision,
    describe_denial,
    describe_message,
    refused,
    unlogged,
)

_TIMER_SLACK_S = 0.02

_LOG = logging.getLogger("reconciler.router.pipeline")


class Inbound(Protocol):
    """One POST of an agent. `size_bytes` is what it announced, None where it did not."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...
    @property
    def size_bytes(self) -> int | None: ...
    @property
    def wait_s(self) -> float: ...

    @property
    def is_gone(self) -> bool:
        """Whether the sender has closed the connection."""
        ...

    async def read(self) -> bytes:
        """The body. Raises ConnectionError when the sender is gone before its end."""
        ...

    async def wait(self, waiter: asyncio.Future[bytes | None], timeout_s: float) -> bytes | None:
        """What the waiter is given; None after the time-out, or when the sender is gone."""
        ...


class _Passage(msgspec.Struct):
    """How far a message has come, for the row and for the rim."""

    sender: Instance
    rules: Rules
    step: str = "identity"
    size_bytes: int = 0
    message: Message | None = None
    decision: Decision | None = None
    seq: int | None = None


class Route:
    """The pipeline with what it works on. `hint` tells control which kind to look at."""

    def __init__(
        self,
        *,
        rules: Rules,
        registry: Registry,
        requests: Requests,
        log: TrafficLog,
        hint: Callable[[str], None],
    ) -> None:
        self.rules = rules
        self.registry = registry
        self.requests = requests
        self.log = log
        self.judge = Judge(on_change=lambda: hint("router"))
        self._intake = rate.Intake()
        self._hint = hint

    async def route(self, sender: Instance, inbound: Inbound) -> Answer:
        """The answer to one message. Raises ConnectionError when there is nobody to answer any more."""
        passage = _Passage(sender, self.rules)
        try:
            answer = await self._take_in(passage, inbound)
            if isinstance(answer, Request):
                return await self._wait_for_reply(passage, inbound, answer)
            return answer
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the rim of the route: an exception in a step is a denial
            report_exception(error, f"step {passage.step}, message from {sender.name}")
            return await self._refuse(
                passage,
                Deny(code="internal", step=passage.step, reason="this is not the sender's fault"),
            )

    async def _take_in(self, passage: _Passage, inbound: Inbound) -> Answer | Request:
        sender, limits = passage.sender, passage.rules.config.limits
        denied = identity.check(sender, inbound.headers, time.time())
        if denied is not None:
            return self._count(passage, denied)
        sender.last_seen = boottime_s()

        passage.step = "rate"
        denied = self._intake.admit(sender, inbound.size_bytes, limits.max_report_bytes)
        if denied is not None:
            return self._count(passage, denied)
        try:
            body = await inbound.read()

            passage.step, passage.size_bytes = "schema", len(body)
            message = parse_message(body)
            if isinstance(message, Deny):
                return await self._refuse(passage, message)
            passage.message = message
            denied = schema.check_size(message, len(body), limits.max_body_bytes)
            if denied is not None:
                return self._count(passage, denied)
            denied = schema.check(passage.rules.validators, sender, message)
            if denied is not None:
                return await self._refuse(passage, denied)
            return await self._pass_once(passage, message, inbound.wait_s)
        finally:
            self._intake.leave(sender, inbound.size_bytes)

    async def _pass_once(self, passage: _Passage, message: Message, wait_s: float) -> Answer | Request:
        """A repeated id is not delivered again; one that was refused may come again."""
        sender, id_ = passage.sender, message.envelope.id
        if message.envelope.type in schema.HUB_IN_MEMORY:
            return await self._judge(passage, message, wait_s)
        now = boottime_s()
        match sender.seen.begin(id_, now):
            case "accepted":
                self.log.count(sender.name, sender.agent, "duplicate", "schema")
                waiting = self.requests.of_requester(sender, id_) if wait_s else None
                return waiting or accepted(id_, "duplicate")
            case "pending":
                reason = "the same message is on its way; send it again to learn what became of it"
                return self._count(passage, Deny(code="rate_limited", step="schema", reason=reason, retry_after_s=1))
        try:
            answer = await self._judge(passage, message, wait_s)
            if isinstance(answer, Request) or answer.status < 300:
                sender.seen.accept(id_, now + passage.rules.config.limits.ttl_s)
            return answer
        finally:
            sender.seen.forget(id_)

    async def _judge(self, passage: _Passage, message: Message, wait_s: float) -> Answer | Request:
        passage.step = "policy"
        sender, rules = passage.sender, passage.rules
        target = deliver.address(self.registry, self.requests, sender, message, boottime_s())
        if isinstance(target, Deny):
            return await self._refuse(passage, target)
        decision = await self.judge.check(rules, sender, target.addressee, message)
        if isinstance(decision, Deny):
            return await self._refuse(passage, decision)
        passage.decision = decision
        if target.addressee.kind == HUB:
            return await self._give_to_hub(passage, message)
        return await self._deliver(passage, message, target, wait_s)

    async def _give_to_hub(self, passage: _Passage, message: Message) -> Answer:
        passage.step = "log"
        sender, wall_s = passage.sender, time.time()
        type_ = message.envelope.type
        is_dropped = type_ == hub.HEARTBEAT and passage.rules.config.log.per_type.get(type_) == "drop"
        if not is_dropped:
            inbox = hub.to_inbox(sender, message, wall_s)
            if not await self._record(passage, inbox=inbox, delivered=HUB):
                return unlogged(passage.rules)
        passage.step = "deliver"
        status, body, kind = hub.receive(sender, message, boottime_s(), wall_s)
        if kind is not None:
            self._hint(kind)
        return Answer(status, body)

    async def _deliver(self, passage: _Passage, message: Message, target: Target, wait_s: float) -> Answer | Request:
        passage.step = "deliver"
        sender, rules, envelope, now = passage.sender, passage.rules, message.envelope, boottime_s()
        ttl_s = min(envelope.ttl_s or rules.config.limits.ttl_s, rules.config.limits.ttl_s)
        seq = sender.seq + 1
        body = deliver.write_body(
            message,
            sender.address,
            to=target.addressee.name if target.request else None,
            time_s=round(time.time(), 3),
            seq=seq,
            ttl_s=ttl_s,
        )
        places = deliver.reserve(self.registry, rules, sender, message, target, len(body), now)
        if isinstance(places, Deny):
            return await self._refuse(passage, places)

        passage.step = "log"
        sender.seq = passage.seq = seq
        if target.request is not None:
            self.requests.answer(target.request)
        is_recorded = False
        try:
            is_recorded = await self._record(passage, delivered=" ".join(i.name for i in places.instances))
        finally:
            if not is_recorded:
                deliver.release(places)
                if target.request is not None:
                    self.requests.take_back(target.request)
        if not is_recorded:
            return unlogged(passage.rules)

        passage.step = "deliver"
        letter = Letter(body, now + ttl_s, envelope.id, sender.name)
        if target.request is not None:
            deliver.hand_over_reply(target.request, places, letter)
            return accepted(envelope.id)
        if envelope.pattern != "request":
            deliver.hand_over(places, letter)
            return accepted(envelope.id)
        return self._ask(passage, message, places, letter, wait_s)

    def _ask(
        self, passage: _Passage, message: Message, places: Places, letter: Letter, wait_s: float
    ) -> Answer | Request:
        """Deliver a request, and remember who may answer it until when."""
        limits = passage.rules.config.limits
        request = Request(
            id=message.envelope.id,
            requester=passage.sender,
            responder=places.instances[0],
            deadline=boottime_s() + min(message.envelope.ttl_s or limits.request_timeout_s, limits.request_timeout_s),
        )
        self.requests.open(request)
        deliver.hand_over(places, letter)
        return request if wait_s else accepted(message.envelope.id)

    async def _wait_for_reply(self, passage: _Passage, inbound: Inbound, request: Request) -> Answer:
        """The reply; `accepted` when the sender's patience ends first, `expired` when the request's time does."""
        waiter: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        request.waiter = waiter
        left_s = max(0.0, request.deadline - boottime_s())
        reply = await inbound.wait(waiter, min(inbound.wait_s, left_s))
        if request.waiter is waiter:
            request.waiter = None
        if reply is not None:
            if inbound.is_gone:
                sender = passage.sender
                sender.put(
                    Letter(
                        reply,
                        boottime_s() + passage.rules.config.limits.ttl_s,
                        request.id,
                        request.responder.name,
                    )
                )
            return Answer(200, reply)
        if request.deadline <= boottime_s() + _TIMER_SLACK_S or request.responder.is_removed:
            denied = Deny(code="expired", step="deliver", reason="no reply came in time", status=504)
            return refused(denied, passage.rules)
        return accepted(request.id)

    def note_expired(self, recipient: Instance, letters: Sequence[Letter]) -> None:
        """One row for each message that nobody took in time."""
        for letter in letters:
            row = Row(
                time=time.time(),
                instance=recipient.name,
                agent=recipient.agent,
                verdict="expired",
                code="expired",
                step="deliver",
                reason=f"a message of {letter.sender} was not taken in time",
                msg_id=letter.message_id,
            )
            self.log.note(row)

    # --- verdicts ---

    def _count(self, passage: _Passage, denied: Deny) -> Answer:
        self.log.count(passage.sender.name, passage.sender.agent, denied.code, denied.step)
        return refused(denied, passage.rules)

    async def _refuse(self, passage: _Passage, denied: Deny) -> Answer:
        """A denial with a row of its own. One that cannot be logged is not told, since it did not happen."""
        row = _start_row(passage)
        describe_denial(row, denied)
        return refused(denied, passage.rules) if await self.log.record(row) else unlogged(passage.rules)

    async def _record(self, passage: _Passage, *, delivered: str, inbox: InboxEntry | None = None) -> bool:
        row = _start_row(passage)
        row.delivered = delivered
        return await self.log.record(row, inbox)


def _start_row(passage: _Passage) -> Row:
    row = Row(
        time=time.time(),
        instance=passage.sender.name,
        agent=passage.sender.agent,
        verdict="allow",
        config_digest=passage.rules.config.digest,
        size=passage.size_bytes,
        sender_seq=passage.seq,
    )
    if passage.decision is not None:
        describe_decision(row, passage.decision)
    if passage.message is not None:
        describe_message(row, passage.message, passage.rules)
    return row


def report_exception(error: Exception, where: str) -> None:
    """Where it happened, to the log of the process; never its message, which may hold a payload."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("%s in %s\n%s", type(error).__name__, where, trace)
