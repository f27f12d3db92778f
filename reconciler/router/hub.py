"""Messages to the hub itself: what the router keeps of them in memory, which of them go to hub_inbox, and the answer.

`agent.hello` and `agent.heartbeat` live in memory until control asks for a report, and `capability.query` is answered
at once; all others are rows of hub_inbox before they are answered.
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


def receive(
    sender: Instance, message: Message, now: float, wall_s: float, found: Mapping[str, Any] | None
) -> tuple[int, bytes, str | None]:
    """Take it in. Returns status and body of the answer, and which kind control should look at.

    `found` is the answer to a query.
    """
    envelope = message.envelope
    if envelope.type == HELLO:
        sender.hello = message.payload
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
