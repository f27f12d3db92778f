"""Messages of the hub's own, which come over the control socket: logged like any other, then in the mailbox.

They are not asked of policy, which is the hub's. An instance need not have said hello, and its mailbox takes them past
its bounds, up to twice, so that no flood keeps a `task.cancel` away.
"""

import secrets
import time

from reconciler.router import deliver
from reconciler.router.clock import boottime_s
from reconciler.router.config import HubMessage
from reconciler.router.deliver import Places
from reconciler.router.log import TrafficLog
from reconciler.router.mailbox import Letter
from reconciler.router.message import HUB, Deny, Envelope, Message
from reconciler.router.registry import Instance
from reconciler.router.rules import Rules
from reconciler.router.traffic import Row
from reconciler.router.verdict import Answer, accepted, describe_message, refused, unlogged


class OwnMessages:
    """Sends them, and counts their `seq`."""

    def __init__(self, log: TrafficLog) -> None:
        self._log = log
        self._seq = 0

    async def send(self, rules: Rules, recipient: Instance, own: HubMessage) -> Answer:
        """202 when it is on disk and in the mailbox."""
        limits, wall_s, now = rules.config.limits, time.time(), boottime_s()
        ttl_s = own.ttl_s or limits.ttl_s
        message = _to_message(own)
        self._seq += 1
        row = Row(time=wall_s, instance=HUB, agent=HUB, verdict="allow", config_digest=rules.config.digest)
        describe_message(row, message, rules)
        row.recipient, row.delivered, row.sender_seq = recipient.address, recipient.name, self._seq
        body = deliver.write_body(
            message, HUB, to=recipient.address, time_s=round(wall_s, 3), seq=self._seq, ttl_s=ttl_s
        )
        bounds = (2 * limits.mailbox_messages, 2 * limits.mailbox_bytes + limits.max_body_bytes)
        if not recipient.mailbox.reserve(len(body), messages=bounds[0], bytes_=bounds[1]):
            return refused(Deny(code="mailbox_full", step="deliver", reason="its mailbox is full twice over"), rules)
        if not await self._log.record(row):
            recipient.mailbox.release(len(body))
            return unlogged(rules)
        deliver.hand_over(Places((recipient,), len(body)), Letter(body, now + ttl_s, message.envelope.id, HUB))
        return accepted(message.envelope.id)


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
