"""Messages to the hub itself: what the router keeps of them in memory, which of them go to hub_inbox, and the answer.

`agent.hello` and `agent.heartbeat` live in memory until control asks for a report; all others are rows of hub_inbox
before they are answered.
"""

from typing import Any

import msgspec

from reconciler.router.message import Message
from reconciler.router.registry import Instance
from reconciler.router.schema import HUB_IN_MEMORY
from reconciler.router.traffic import InboxEntry

HEARTBEAT = "agent.heartbeat"
HELLO = "agent.hello"

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


def receive(sender: Instance, message: Message, now: float, wall_s: float) -> tuple[int, bytes, str | None]:
    """Take it in. Returns status and body of the answer, and which kind control should look at."""
    envelope = message.envelope
    if envelope.type == HELLO:
        sender.hello = message.payload
        return 200, _reply_to_hello(sender, envelope.id, wall_s), "agent"
    answer: dict[str, Any] = {"id": envelope.id, "status": "accepted"}
    if envelope.type == HEARTBEAT:
        sender.heartbeat = message.payload
        sender.heartbeat_at = now
        answer["cancel"] = sender.cancels
        return 202, _encoder.encode(answer), None
    return 202, _encoder.encode(answer), "agent" if envelope.type == "security.alert" else "task"


def _reply_to_hello(sender: Instance, id_: str, wall_s: float) -> bytes:
    return _encoder.encode(
        {
            "id": f"reply-{id_}",
            "from": "hub",
            "type": HELLO,
            "pattern": "reply",
            "to": sender.address,
            "correlation_id": id_,
            "time": wall_s,
            "payload": {"ok": True, "instance": sender.name},
        }
    )
