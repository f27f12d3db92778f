"""Messages to the hub itself: what the router keeps of them in memory, which of them go to hub_inbox, and the answer.

`agent.hello` and `agent.heartbeat` live in memory until control asks for a report, `capability.query` is answered at
once; all others are rows of hub_inbox before they are answered, a `delegation.request` by control. Beside them stand
alerts that the router itself raises about a sender.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from reconciler.router.message import HUB, Envelope, Message
from reconciler.router.registry import Instance
from reconciler.router.schema import HUB_IN_MEMORY
from reconciler.router.traffic import InboxEntry

HEARTBEAT = "agent.heartbeat"
HELLO = "agent.hello"
QUERY = "capability.query"
DELEGATION = "delegation.request"

FLOOD = "hub.flood"
"""What stands in hub_inbox for control when an instance goes on and on over its rate."""
FORGED = "hub.forged"
"""The same for an instance that claims to be another, or a peer whose signature is not its own."""

_QUIET_S = 60.0

_encoder = msgspec.json.Encoder()


def to_inbox(sender: Instance, message: Message, wall_s: float) -> InboxEntry | None:
    """The row for control to take in; None where memory is enough."""
    envelope = message.envelope
    if envelope.type in HUB_IN_MEMORY:
        return None
    return InboxEntry(
        time=wall_s,
        instance=sender.name,
        agent=sender.agent,
        type=envelope.type,
        msg_id=envelope.id,
        body=bytes(envelope.payload).decode(),
    )


class Forgeries:
    """Who claimed to be another lately. An instance is told of once, and again only after a minute without any."""

    def __init__(self) -> None:
        self._last_by_instance: dict[str, float] = {}

    def note(self, instance: str, now: float) -> bool:
        """One more. True when this is the one to be told of."""
        self._last_by_instance = {i: at for i, at in self._last_by_instance.items() if now - at < _QUIET_S}
        is_due = instance not in self._last_by_instance
        self._last_by_instance[instance] = now
        return is_due

    def forget(self, instance: str) -> None:
        """It could not be told; the next one will be."""
        self._last_by_instance.pop(instance, None)


def raise_alert(sender: Instance, type_: str, reason: str, now: float, wall_s: float) -> InboxEntry:
    """The row for control. Its id has a space, so that no message of the sender can stand in its way."""
    return InboxEntry(
        time=wall_s,
        instance=sender.name,
        agent=sender.agent,
        type=type_,
        msg_id=f"{type_} {now:.3f}",
        body=_encoder.encode({"reason": reason}).decode(),
    )


def receive(
    sender: Instance, message: Message, now: float, wall_s: float, found: Mapping[str, Any] | None
) -> tuple[int, bytes, str | None]:
    """Take it in. Returns status and body of the answer, and which kind control should look at.

    `found` is the answer to a query.
    """
    envelope = message.envelope
    if envelope.type in (HELLO, HEARTBEAT) or envelope.type.startswith("task."):
        sender.note_call(now, is_daemon=True)
    if envelope.type == HELLO:
        sender.greet(message.payload)
        return 200, _reply(sender, envelope, wall_s, {"ok": True, "instance": sender.name}), "agent"
    if envelope.type == QUERY and found is not None:
        return 200, _reply(sender, envelope, wall_s, found), None
    answer: dict[str, Any] = {"id": envelope.id, "status": "accepted"}
    if envelope.type == HEARTBEAT:
        sender.heartbeat = message.payload
        sender.heartbeat_at = now
        answer["cancel"] = sender.cancels
        return 202, _encoder.encode(answer), None
    return 202, _encoder.encode(answer), "agent" if envelope.type == "security.alert" else "task"


def _reply(sender: Instance, envelope: Envelope, wall_s: float, payload: Mapping[str, Any]) -> bytes:
    return _encoder.encode(
        {
            "id": f"reply-{envelope.id}",
            "from": HUB,
            "type": envelope.type,
            "pattern": "reply",
            "to": sender.address,
            "correlation_id": envelope.id,
            "time": wall_s,
            "payload": payload,
        }
    )
