"""Messages of the hub's own and of operators, which come over the control socket: logged, then in the mailboxes.

They are not asked of policy, which is the hub's. An instance need not have said hello, and its mailbox takes them past
its bounds, up to twice, so that no flood keeps a `task.cancel` away. What an operator sends conforms to the schema of
its type.
"""

import secrets
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from reconciler.router import audience, deliver, schema
from reconciler.router.answer import Answer
from reconciler.router.clock import boottime_s
from reconciler.router.config import HubMessage, HubSend, RefusedError
from reconciler.router.deliver import Places
from reconciler.router.log import TrafficLog
from reconciler.router.mailbox import Letter
from reconciler.router.message import HUB, Deny, Envelope, Message
from reconciler.router.registry import Instance, Registry
from reconciler.router.requests import Request
from reconciler.router.rules import Rules
from reconciler.router.trace import new_traceparent
from reconciler.router.traffic import Row
from reconciler.router.verdict import accepted, describe_message, refused, row_of_dropped, unlogged

_ORDERS = "task."
"""What such types begin with is for the daemon of an instance, and not for a command of it."""


_NOTICES = frozenset({"policy.changed"})
"""They wake nobody who sleeps, and a newer one takes the place of one that nobody has read."""


class Recipients(NamedTuple):
    """`shown` is for the row, `to` for the reader where the message names an agent or an instance."""

    instances: Sequence[Instance]
    shown: str
    to: str | None = None


def find_recipients(registry: Registry, rules: Rules, order: HubSend) -> Recipients:
    """Whom an order names. Raises RefusedError for an order without a recipient, LookupError for an unknown one."""
    if sum(value is not None for value in (order.instance, order.to, order.topic, order.audience)) != 1:
        raise RefusedError("messages: exactly one of instance, to, topic and audience is needed")
    if order.audience is not None:
        return Recipients(_find_audience(registry, rules, order.audience), audience.show(order.audience))
    if order.topic is not None:
        return Recipients(_find_subscribers(registry, rules, order.topic), f"topic:{order.topic}")
    agent, _, name = order.to.partition("/") if order.to is not None else ("", "", order.instance)
    if name:
        instance = registry.by_name.get(name)
        if instance is None or agent not in ("", instance.agent):
            raise LookupError(f"there is no instance {order.to or name}")
        return Recipients((instance,), instance.address, instance.address)
    found = registry.of_agent(agent)
    if not found:
        raise LookupError(f"there is no instance of {agent}")
    return Recipients((_choose(found),), agent, agent)


class OwnMessages:
    """Sends them, and counts their `seq`."""

    def __init__(self, log: TrafficLog) -> None:
        self._log = log
        self._seq = 0

    async def send(
        self, rules: Rules, recipients: Recipients, own: HubMessage, actor: str = "", request: Request | None = None
    ) -> Answer:
        """202 when it is on disk and in the mailboxes that have room. Raises RefusedError for what nobody may send.

        `request` is what it answers, if somebody may still wait for that.
        """
        message = _to_message(own)
        if actor and own.pattern == "reply":
            raise RefusedError("messages: an operator is asked nothing, and sends no reply")
        if actor:
            if (wrong := audience.check_operator(own.type)) is not None:
                raise RefusedError(f"messages: {wrong}")
            denied = schema.check_payload(rules.validators, own.type, msgspec.json.decode(own.payload))
            if denied is not None:
                return refused(denied, rules)
        limits, wall_s, now = rules.config.limits, time.time(), boottime_s()
        ttl_s = own.ttl_s or limits.ttl_s
        traceparent = own.traceparent or new_traceparent()
        self._seq += 1
        body = deliver.write_body(
            message,
            audience.OPERATOR if actor else HUB,
            to=recipients.to,
            time_s=round(wall_s, 3),
            seq=self._seq,
            ttl_s=ttl_s,
            traceparent=traceparent,
        )
        is_order = own.type.startswith(_ORDERS)
        places = _reserve(recipients.instances, rules, len(body), is_order=is_order)
        if recipients.instances and not places.instances:
            return refused(Deny(code="mailbox_full", step="deliver", reason="its mailbox is full twice over"), rules)
        row = Row(time=wall_s, instance=actor or HUB, agent=HUB, verdict="allow", decided_at=wall_s)
        row.config_digest = rules.config.digest
        describe_message(row, message, rules)
        row.recipient, row.delivered = recipients.shown, " ".join(i.name for i in places.instances)
        row.sender_seq, row.traceparent = self._seq, traceparent
        for recipient in places.full:
            self._log.note(row_of_dropped(row, recipient))
        if not await self._log.record(row):
            deliver.release(places, is_order=is_order)
            return unlogged(rules)
        sender = audience.OPERATOR if actor else HUB
        notice = own.type if own.type in _NOTICES else ""
        letter = Letter(body, now + ttl_s, message.envelope.id, sender, is_order=is_order, notice=notice)
        if request is not None:
            deliver.hand_over_reply(request, places, letter)
        else:
            deliver.hand_over(places, letter)
        return accepted(message.envelope.id)


def _find_audience(registry: Registry, rules: Rules, wanted: audience.Audience) -> Sequence[Instance]:
    return [
        instance
        for name, agent in sorted(rules.config.agents.items())
        if audience.fits(wanted, agent.role, agent.labels, agent.capabilities)
        for instance in registry.of_agent(name)
    ]


def _find_subscribers(registry: Registry, rules: Rules, topic: str) -> Sequence[Instance]:
    found: list[Instance] = []
    for agent, is_all in rules.topics.find(topic):
        instances = registry.of_agent(agent)
        found.extend(instances if is_all or not instances else (_choose(instances),))
    return found


def _choose(instances: Collection[Instance]) -> Instance:
    """One that has said hello, with the least to do."""
    return min(instances, key=lambda i: (i.hello is None, i.load))


def _reserve(instances: Sequence[Instance], rules: Rules, size_bytes: int, *, is_order: bool) -> Places:
    """Places where there is room."""
    limits = rules.config.limits
    messages, bytes_ = 2 * limits.mailbox_messages, 2 * limits.mailbox_bytes + limits.max_body_bytes
    taken: list[Instance] = []
    full: list[str] = []
    for instance in instances:
        mailbox = instance.orders if is_order else instance.mailbox
        if mailbox.reserve(size_bytes, messages=messages, bytes_=bytes_):
            taken.append(instance)
        else:
            full.append(instance.address)
    return Places(taken, size_bytes, full)


def _to_message(own: HubMessage) -> Message:
    envelope = Envelope(
        id=own.id or secrets.token_hex(16),
        type=own.type,
        pattern=own.pattern,
        correlation_id=own.correlation_id,
        sensitivity=own.sensitivity,
        traceparent=own.traceparent,
        payload=own.payload,
    )
    return Message(envelope, None, len(bytes(own.payload)))
