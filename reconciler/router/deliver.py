"""Step 6: whom a message is for, a place in each mailbox, and, once the verdict is on disk, the delivery.

`address` stands before the policy step, which needs to know the recipient; `reserve` before the log step, so that a
full mailbox is a verdict too; `hand_over` after it. A request goes to one instance, an event to one instance per agent
or to all: where there is a ready one to that, else to one that sleeps or is on its way up, in whose mailbox it waits.
Never back to the instance that sent it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from reconciler.router.mailbox import Letter
from reconciler.router.message import HUB, Delivered, Deny, Message
from reconciler.router.policy import Addressee
from reconciler.router.registry import Instance, Registry
from reconciler.router.requests import Request, Requests
from reconciler.router.rules import Rules

_NOT_POLLED_S = 60.0
_RETRY_S = 2

_encoder = msgspec.json.Encoder()


class Target(msgspec.Struct, frozen=True, gc=False):
    """Where a message goes: `instance` when it names one, `request` when it is a reply to one."""

    addressee: Addressee
    instance: str | None = None
    request: Request | None = None


class Places(msgspec.Struct, frozen=True, gc=False):
    """Reserved places of `size_bytes` each in the mailboxes of `instances`.

    `full` are the subscribers that go without, as agent/instance, or as agent where any of its instances would do.
    """

    instances: Sequence[Instance]
    size_bytes: int = 0
    full: Sequence[str] = ()


def address(
    registry: Registry, rules: Rules, requests: Requests, sender: Instance, message: Message, now: float
) -> Target | Deny:
    """Whom the message is for. An unknown agent is addressed too, so that policy is asked as for any other.

    One that the configuration names is known while it has no instance, too: there will be one.
    """
    envelope = message.envelope
    if envelope.pattern == "reply":
        return _address_reply(requests, sender, envelope.correlation_id or "", envelope.to, now)
    if envelope.topic is not None:
        return Target(_show("topic", envelope.topic))
    agent, _, instance = (envelope.to or "").partition("/")
    if agent == HUB:
        return Target(_show("hub", HUB, is_known=not instance))
    known = registry.of_agent(agent)
    is_known = any(i.name == instance for i in known) if instance else bool(known) or agent in rules.config.agents
    return Target(_show("agent", agent, is_known=is_known), instance or None)


def reserve(
    registry: Registry,
    rules: Rules,
    sender: Instance,
    target: Target,
    size_bytes: int,
    now: float,
) -> Places | Deny:
    """Places for the message, or mailbox_full. A topic is served where there is room, and full if there is none."""
    if target.request is not None:
        return _check_open(target.request, now) or _reserve_reply(rules, target.request, size_bytes)
    if target.addressee.kind == "agent":
        agent, name = target.addressee.name, target.instance
        found = [i for i in registry.of_agent(agent) if i is not sender and (name is None or i.name == name)]
        chosen = _reserve_one(found, rules, size_bytes, now)
        return Places((chosen,), size_bytes) if chosen else _full("it has no other instance, or none with room")
    return _reserve_topic(registry, rules, sender, target.addressee.name, size_bytes, now)


def release(places: Places, *, is_order: bool = False) -> None:
    """Give the places back."""
    for instance in places.instances:
        (instance.orders if is_order else instance.mailbox).release(places.size_bytes)


def hand_over(places: Places, letter: Letter) -> None:
    """Put a letter of its own, but one body, into each place."""
    release(places, is_order=letter.is_order)
    for instance in places.instances:
        if not instance.is_removed:
            instance.put(msgspec.structs.replace(letter))


def hand_over_reply(request: Request, places: Places, letter: Letter) -> None:
    """To the requester that waits, or into its mailbox."""
    if request.waiter is not None and not request.waiter.done():
        request.waiter.set_result(letter.body)
        release(places)
        return
    hand_over(places, letter)


def write_body(
    message: Message, sender: str, *, to: str | None, time_s: float, seq: int, ttl_s: float, traceparent: str
) -> bytes:
    """The message as its recipient reads it. `to` stands in for the recipient of a reply, which may leave it out."""
    envelope = message.envelope
    return _encoder.encode(
        Delivered(
            id=envelope.id,
            from_=sender,
            type=envelope.type,
            pattern=envelope.pattern,
            to=envelope.to or to,
            topic=envelope.topic,
            correlation_id=envelope.correlation_id,
            time=time_s,
            seq=seq,
            ttl_s=ttl_s,
            sensitivity=envelope.sensitivity,
            traceparent=traceparent,
            tracestate=envelope.tracestate,
            payload=envelope.payload,
        )
    )


@lru_cache(maxsize=4096)
def _show(kind: Literal["agent", "topic", "hub"], name: str, *, is_known: bool = True) -> Addressee:
    return Addressee(kind=kind, name=name, is_known=is_known)


def _address_reply(requests: Requests, sender: Instance, id_: str, to: str | None, now: float) -> Target | Deny:
    request = requests.find(sender, id_, to)
    if request is None:
        reason = "nobody asked this instance anything under that correlation_id lately"
        return Deny(code="unknown_or_forbidden_recipient", step="deliver", reason=reason)
    denied = _check_open(request, now)
    if denied is not None:
        return denied
    requester = request.requester
    addressee = Addressee(kind="agent", name=requester.agent, capabilities=requester.capabilities)
    return Target(addressee, requester.name, request)


def _check_open(request: Request, now: float) -> Deny | None:
    """Asked when the reply comes, and again when policy has taken its time: another may have been faster."""
    if request.is_answered:
        return Deny(
            code="duplicate",
            step="deliver",
            reason="the request was answered before; it takes one reply",
        )
    if request.deadline <= now:
        return Deny(
            code="expired",
            step="deliver",
            reason="the reply is late: the time of the request is over",
        )
    return None


def _reserve_reply(rules: Rules, request: Request, size_bytes: int) -> Places | Deny:
    limits = rules.config.limits
    mailbox = request.requester.mailbox
    if mailbox.reserve(size_bytes, messages=limits.mailbox_messages, bytes_=limits.mailbox_bytes):
        return Places((request.requester,), size_bytes)
    if request.waiter is not None and not request.waiter.done():
        return Places(())
    return _full("the mailbox of who asked is full")


def _reserve_topic(
    registry: Registry, rules: Rules, sender: Instance, topic: str, size_bytes: int, now: float
) -> Places | Deny:
    limits = rules.config.limits
    places: list[Instance] = []
    full: list[str] = []
    for agent, is_all in rules.topics.find(topic):
        found = [i for i in registry.of_agent(agent) if i is not sender]
        if is_all:
            for instance in found:
                if instance.mailbox.reserve(size_bytes, messages=limits.mailbox_messages, bytes_=limits.mailbox_bytes):
                    places.append(instance)
                else:
                    full.append(instance.address)
        elif (chosen := _reserve_one(found, rules, size_bytes, now)) is not None:
            places.append(chosen)
        elif found:
            full.append(agent)
    if full and not places:
        return _full("the mailboxes of all subscribers are full")
    return Places(places, size_bytes, full)


def _reserve_one(found: Sequence[Instance], rules: Rules, size_bytes: int, now: float) -> Instance | None:
    """The first with room: those that said hello and were heard of lately first, then those with least to do."""
    limits = rules.config.limits
    if len(found) > 1:
        found = sorted(found, key=lambda i: (i.hello is None, now - i.last_seen > _NOT_POLLED_S, i.load))
    for instance in found:
        if instance.mailbox.reserve(size_bytes, messages=limits.mailbox_messages, bytes_=limits.mailbox_bytes):
            return instance
    return None


def _full(reason: str) -> Deny:
    return Deny(code="mailbox_full", step="deliver", reason=reason, retry_after_s=_RETRY_S)
