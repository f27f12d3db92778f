"""The route: message -> identity -> rate -> schema -> policy -> log -> deliver.

An inbound request goes in, the answer to its sender comes out. The first denial ends it, an exception in a step is a
denial, and each verdict is on disk before anything is delivered or answered; only denials of the first two steps and
repeated ids are counted, into one row per second, so that a flood cannot fill the disk.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from reconciler.core.decision import Decision
from reconciler.router import deliver, hub, identity, rate, schema
from reconciler.router.answer import Answer
from reconciler.router.capabilities import find_agents
from reconciler.router.clock import boottime_s
from reconciler.router.config import InstanceEntry
from reconciler.router.deliver import Places, Target
from reconciler.router.formats import read_message
from reconciler.router.log import TrafficLog
from reconciler.router.mailbox import Letter
from reconciler.router.message import (
    HUB,
    Deny,
    Envelope,
    Message,
)
from reconciler.router.policy import Addressee, Judge
from reconciler.router.registry import Instance, Registry
from reconciler.router.requests import Request, Requests
from reconciler.router.rules import Rules
from reconciler.router.tally import Tallies
from reconciler.router.trace import new_traceparent
from reconciler.router.traffic import InboxEntry, Row
from reconciler.router.verdict import (
    accepted,
    describe_decision,
    describe_denial,
    describe_message,
    refused,
    row_of_dropped,
    row_of_lost,
    unlogged,
)

if TYPE_CHECKING:
    from reconciler.identity.klp import Opened
    from reconciler.router.peers import Peers

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

    def note_denial(self, now: float) -> None:
        """The sender is over its rate; when that goes on, its connection is not read from for a while."""
        ...

    async def wait(self, waiter: asyncio.Future[bytes | None], timeout_s: float) -> bytes | None:
        """What the waiter is given; None after the time-out, or when the sender is gone."""
        ...


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """What will be delivered: a letter, with places for it in mailboxes; of a reply, the request that it answers."""

    letter: Letter
    places: Places
    request: Request | None


class _Passage(msgspec.Struct, gc=False):
    """How far a message has come: what the steps found, for those that follow, for the row and for the rim.

    `now` is seconds of CLOCK_BOOTTIME, `wall_s` epoch seconds; both since the body is here.
    """

    sender: Instance
    rules: Rules
    inbound: Inbound
    now: float
    wall_s: float
    step: str = "identity"
    size_bytes: int = 0
    opened: "Opened | None" = None
    message: Message | None = None
    traceparent: str | None = None
    decision: Decision | None = None
    found: Mapping[str, Any] | None = None
    seq: int | None = None
    parcel: Parcel | None = None
    is_delivered: bool = False


class Route:
    """The pipeline with what it works on. `hint` tells control which kind to look at; `control` answers for the hub."""

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
        self.peers: Peers | None = None
        self.tallies = Tallies()
        self.control = Instance(HUB, InstanceEntry(agent=HUB))
        self._intake = rate.Intake()
        self._forgeries = hub.Forgeries()
        self._hint = hint

    async def route(self, sender: Instance, inbound: Inbound) -> Answer:
        """The answer to one message. Raises ConnectionError when there is nobody to answer any more."""
        passage = _Passage(sender, self.rules, inbound, boottime_s(), time.time())
        try:
            denied = self._admit(passage)
            if denied is not None:
                return await self._turn_away(passage, denied)
            try:
                answer = await self._pass(passage, await inbound.read())
            finally:
                self._intake.leave(sender, inbound.size_bytes)
                if passage.opened is not None and not passage.is_delivered and self.peers is not None:
                    self.peers.forget(sender.agent, passage.opened)
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

    def _admit(self, passage: _Passage) -> Deny | None:
        """Identity and rate: all that can be said before the body is here."""
        sender, rules, size_bytes = passage.sender, passage.rules, passage.inbound.size_bytes
        denied = identity.check(sender, passage.inbound.headers, passage.wall_s)
        if denied is not None:
            return denied
        sender.note_call(passage.now, is_daemon=False)

        passage.step = "rate"
        quotas = rules.find_quotas(sender.agent)
        if quotas is not None:
            allowance = rate.find_allowance(sender, quotas, passage.now)
            denied = allowance.admit(quotas, passage.now, size_bytes or 0)
        return denied or self._intake.admit(sender, size_bytes, rules.config.limits.max_report_bytes)

    async def _pass(self, passage: _Passage, body: bytes) -> Answer | Request:
        """The steps from schema to deliver; a Request where the sender wants to wait for its reply."""
        passage.now, passage.wall_s = boottime_s(), time.time()

        passage.step, passage.size_bytes = "schema", len(body)
        sender, headers = passage.sender, passage.inbound.headers
        message, passage.opened = read_message(body, headers, sender, self.peers, passage.wall_s)
        denied = self._charge(passage, message)
        if denied is not None:
            return await self._turn_away(passage, denied)
        if isinstance(message, Deny):
            return await self._refuse(passage, message)
        passage.message = message
        denied = schema.check_size(message, len(body), passage.rules.config.limits.max_body_bytes)
        if denied is not None:
            return self._count(passage, denied)
        if (denied := identity.check_sender(sender, message.envelope)) is not None:
            return await self._refuse(passage, denied)
        denied = schema.check(passage.rules.validators, message)
        if denied is None and passage.opened is None:
            denied = self._check_unsigned(passage, message)
        if denied is not None:
            return await self._refuse(passage, denied)
        repeated = self._recognise(passage, message)
        if repeated is not None:
            return repeated
        passage.traceparent = message.envelope.traceparent or new_traceparent()

        try:
            passage.step = "policy"
            target = deliver.address(self.registry, passage.rules, self.requests, passage.sender, message, passage.now)
            if isinstance(target, Deny):
                return await self._refuse(passage, target)
            decision = await self._judge(passage, message, target)
            if isinstance(decision, Deny):
                return await self._refuse(passage, decision)
            passage.decision = decision

            if message.envelope.type == hub.QUERY:
                passage.found = await self._find_agents(passage, message)
            if target.addressee.kind != HUB:
                passage.step = "deliver"
                denied = self._pack(passage, message, target)
                if denied is not None:
                    return await self._refuse(passage, denied)

            passage.step = "log"
            if not (_is_unlogged(passage, message) or await self._record(passage, message)):
                return unlogged(passage.rules)

            passage.step = "deliver"
            passage.is_delivered = True
            return self._deliver(passage, message)
        finally:
            self._let_go(passage, message)

    def _check_unsigned(self, passage: _Passage, message: Message) -> Deny | None:
        """Peers sign what they send to others, and so does everybody where that is required."""
        is_peer = self.peers is not None and passage.sender.agent in self.peers
        if message.envelope.to == HUB or not (is_peer or passage.rules.config.rules.crypto_required):
            return None
        return identity.deny_unsigned(passage.sender, is_peer=is_peer)

    def _charge(self, passage: _Passage, message: Message | Deny) -> Deny | None:
        """Take it from the sender's quota, well-formed or not."""
        sender, now = passage.sender, passage.now
        quotas = passage.rules.find_quotas(sender.agent)
        if quotas is None:
            return None
        type_ = message.envelope.type if isinstance(message, Message) else ""
        return rate.find_allowance(sender, quotas, now).charge(quotas, now, type_, passage.size_bytes)

    def _recognise(self, passage: _Passage, message: Message) -> Answer | Request | None:
        """The answer to an id that came before; None for a new one. One that was refused may come again."""
        sender, id_ = passage.sender, message.envelope.id
        if message.envelope.type in schema.HUB_IN_MEMORY:
            return None
        match sender.seen.begin(id_, passage.now):
            case "new":
                return None
            case "accepted":
                self.log.count(sender.name, sender.agent, "duplicate", "schema")
                waiting = self.requests.of_requester(sender, id_) if passage.inbound.wait_s else None
                return waiting or accepted(id_, "duplicate")
            case "pending":
                reason = "the same message is on its way; send it again to learn what became of it"
                return self._count(passage, Deny(code="rate_limited", step="schema", reason=reason, retry_after_s=1))

    async def _judge(self, passage: _Passage, message: Message, target: Target) -> Decision | Deny:
        decision = self.judge.decide_now(passage.rules, passage.sender, target.addressee, message)
        if decision is not None:
            return decision
        asking = self.judge.check(passage.rules, passage.sender, target.addressee, message)
        return await asyncio.get_running_loop().create_task(asking)

    async def _find_agents(self, passage: _Passage, message: Message) -> Mapping[str, Any]:
        """Whom the query finds; asked of policy as for messages of the sensitivity of the query."""

        async def may_send(agent: str, type_: str) -> bool:
            envelope = Envelope(
                id="", type=type_, pattern="request", to=agent, sensitivity=message.envelope.sensitivity
            )
            target = Target(Addressee(kind="agent", name=agent))
            return isinstance(await self._judge(passage, Message(envelope, None, 0), target), Decision)

        config, asker = passage.rules.config, passage.sender.agent
        finding = find_agents(message.payload, asker, config, self.registry, may_send)
        return await asyncio.get_running_loop().create_task(finding)

    def _pack(self, passage: _Passage, message: Message, target: Target) -> Deny | None:
        """Reserve places for the message, as its recipients will read it."""
        sender, rules, envelope = passage.sender, passage.rules, message.envelope
        limits = rules.config.limits
        most_s = min(limits.ttl_s, limits.request_timeout_s) if envelope.pattern == "request" else limits.ttl_s
        ttl_s = min(envelope.ttl_s or most_s, most_s)
        body = deliver.write_body(
            message,
            sender.address,
            to=target.addressee.name if target.request else None,
            time_s=round(passage.wall_s, 3),
            seq=sender.seq + 1,
            ttl_s=ttl_s,
            traceparent=passage.traceparent or "",
        )
        places = deliver.reserve(self.registry, rules, sender, target, len(body), boottime_s())
        if isinstance(places, Deny):
            return places
        sender.seq += 1
        passage.seq = sender.seq
        if target.request is not None:
            self.requests.answer(target.request)
        letter = Letter(body, passage.now + ttl_s, envelope.id, sender.name)
        passage.parcel = Parcel(letter, places, target.request)
        return None

    def _record(self, passage: _Passage, message: Message) -> Awaitable[bool]:
        """True once it is on disk; of a message to the hub also what control will read."""
        row, parcel = _start_row(passage), passage.parcel
        if parcel is not None:
            for recipient in parcel.places.full:
                self.log.note(row_of_dropped(row, recipient))
            row.delivered = " ".join([i.name for i in parcel.places.instances])
            return self.log.record(row)
        row.delivered = HUB
        return self.log.record(row, hub.to_inbox(passage.sender, message, passage.wall_s))

    def _deliver(self, passage: _Passage, message: Message) -> Answer | Request:
        """What is on disk goes to the hub, to who waits for a reply, or into mailboxes."""
        self.tallies[passage.sender.agent].accepted += 1
        parcel = passage.parcel
        if parcel is None:
            status, body, kind = hub.receive(passage.sender, message, passage.now, passage.wall_s, passage.found)
            if kind is not None:
                self._hint(kind)
            if message.envelope.type == hub.DELEGATION and passage.inbound.wait_s:
                return self._ask_hub(passage, message)
            return Answer(status, body)
        if not all(instance.tokens for instance in parcel.places.instances):
            self._hint("agent")
        if parcel.request is not None:
            deliver.hand_over_reply(parcel.request, parcel.places, parcel.letter)
        elif message.envelope.pattern == "request":
            return self._ask(passage, message, parcel)
        else:
            deliver.hand_over(parcel.places, parcel.letter)
        return accepted(message.envelope.id)

    def _ask(self, passage: _Passage, message: Message, parcel: Parcel) -> Answer | Request:
        """Deliver a request, and remember who may answer it until when."""
        limits = passage.rules.config.limits
        request = Request(
            id=message.envelope.id,
            requester=passage.sender,
            responder=parcel.places.instances[0],
            deadline=boottime_s() + min(message.envelope.ttl_s or limits.request_timeout_s, limits.request_timeout_s),
        )
        self.requests.open(request)
        deliver.hand_over(parcel.places, parcel.letter)
        return request if passage.inbound.wait_s else accepted(message.envelope.id)

    def _ask_hub(self, passage: _Passage, message: Message) -> Request:
        """Remember who waits for what control will answer; that may be long after the sender's patience ended."""
        ttl_s = passage.rules.config.limits.ttl_s
        deadline = boottime_s() + max(ttl_s, passage.inbound.wait_s + 1.0)
        request = Request(id=message.envelope.id, requester=passage.sender, responder=self.control, deadline=deadline)
        self.requests.open(request)
        return request

    def _let_go(self, passage: _Passage, message: Message) -> None:
        """Remember the id of what was delivered; give back what was kept for all else."""
        parcel, is_delivered = passage.parcel, passage.is_delivered
        if message.envelope.type not in schema.HUB_IN_MEMORY:
            seen, id_ = passage.sender.seen, message.envelope.id
            if is_delivered:
                seen.accept(id_, passage.now + passage.rules.config.limits.ttl_s)
            else:
                seen.forget(id_)
        if parcel is not None and not is_delivered:
            deliver.release(parcel.places)
            if parcel.request is not None:
                self.requests.take_back(parcel.request)

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

    def note_unsigned(self, recipient: Instance, letters: Sequence[Letter]) -> None:
        """One row for each message that a peer does not get, since it cannot be signed."""
        for letter in letters:
            reason = f"a message of {letter.sender} cannot be signed: an inexact number, or too many values"
            self.log.note(row_of_lost(recipient.name, recipient.agent, letter, "invalid_payload", reason, time.time()))

    def note_expired(self, recipient: Instance, letters: Sequence[Letter]) -> None:
        """One row for each message that nobody took in time; what the hub tells everybody need not be read."""
        for letter in letters:
            if letter.sender == HUB and not letter.is_order:
                continue
            reason = f"a message of {letter.sender} was not taken in time"
            self.log.note(row_of_lost(recipient.name, recipient.agent, letter, "expired", reason, time.time()))

    # --- verdicts ---

    def _count(self, passage: _Passage, denied: Deny) -> Answer:
        self.tallies[passage.sender.agent].note(denied)
        _note_denial(passage, denied)
        self.log.count(passage.sender.name, passage.sender.agent, denied.code, denied.step)
        return refused(denied, passage.rules)

    async def _turn_away(self, passage: _Passage, denied: Deny) -> Answer:
        """Counted. Who is over its rate is told what it may send; who goes on is read from less, and told of."""
        answer, sender, now = self._count(passage, denied), passage.sender, passage.now
        quotas = passage.rules.find_quotas(sender.agent)
        if denied.code != "rate_limited" or quotas is None:
            return answer
        passage.inbound.note_denial(now)
        if sender.denials.note(now):
            self.tallies[sender.agent].floods += 1
            await self._tell_of_flood(passage)
        fields = rate.show_fields(sender, quotas, now)
        return msgspec.structs.replace(answer, headers=(*answer.headers, *fields))

    async def _tell_of_flood(self, passage: _Passage) -> None:
        """One row, and one entry for control."""
        row = _start_row(passage)
        reason = "30 messages over the rate within a minute; told again after a minute without"
        describe_denial(row, Deny(code="rate_limited", step="rate", reason=reason))
        entry = hub.raise_alert(passage.sender, hub.FLOOD, reason, passage.now, passage.wall_s)
        if await self.log.record(row, entry):
            self._hint("task")

    async def _refuse(self, passage: _Passage, denied: Deny) -> Answer:
        """A denial with a row of its own. One that cannot be logged is not told, since it did not happen."""
        row = _start_row(passage)
        describe_denial(row, denied)
        alert = self._find_alert(passage, denied) if denied.is_forgery else None
        if not await self.log.record(row, alert):
            if alert is not None:
                self._forgeries.forget(passage.sender.name)
            return unlogged(passage.rules)
        self.tallies[passage.sender.agent].note(denied)
        _note_denial(passage, denied)
        if alert is not None:
            self._hint("task")
        return refused(denied, passage.rules)

    def _find_alert(self, passage: _Passage, denied: Deny) -> InboxEntry | None:
        """The entry for control that tells of a forgery, unless it knows of this sender already."""
        if not self._forgeries.note(passage.sender.name, passage.now):
            return None
        return hub.raise_alert(passage.sender, hub.FORGED, denied.reason, passage.now, passage.wall_s)


def _note_denial(passage: _Passage, denied: Deny) -> None:
    """Of a hello, or of what could not be read so far. What is said of other messages may show what is in them."""
    if passage.message is None or passage.message.envelope.type == hub.HELLO:
        passage.sender.note_denial(denied)


def _is_unlogged(passage: _Passage, message: Message) -> bool:
    """Of all messages heartbeats alone may go without a row, where the configuration drops them."""
    type_ = message.envelope.type
    is_for_hub = passage.parcel is None
    return is_for_hub and type_ == hub.HEARTBEAT and passage.rules.config.log.per_type.get(type_) == "drop"


def _start_row(passage: _Passage) -> Row:
    row = Row(
        time=passage.wall_s,
        instance=passage.sender.name,
        agent=passage.sender.agent,
        verdict="allow",
        config_digest=passage.rules.config.digest,
        size=passage.size_bytes,
        sender_seq=passage.seq,
        decided_at=passage.wall_s,
    )
    if passage.decision is not None:
        describe_decision(row, passage.decision)
    if passage.message is not None:
        describe_message(row, passage.message, passage.rules)
        row.traceparent = passage.traceparent or row.traceparent
    return row


def report_exception(error: Exception, where: str) -> None:
    """Where it happened, to the log of the process; never its message, which may hold a payload."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("%s in %s\n%s", type(error).__name__, where, trace)
