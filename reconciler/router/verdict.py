"""A verdict in its two forms: the answer to the sender, and the row of the message log. Pure."""

import hashlib
from http import HTTPStatus

import msgspec

from reconciler.core.decision import Decision
from reconciler.router.answer import PROBLEM, Answer, Header
from reconciler.router.mailbox import Letter
from reconciler.router.message import Deny, Message, problem_body, problem_status
from reconciler.router.rules import Rules
from reconciler.router.traffic import Row

_encoder = msgspec.json.Encoder()


def accepted(id_: str, status: str = "accepted") -> Answer:
    """202: it is on disk and in the mailboxes."""
    return Answer(202, _encoder.encode({"id": id_, "status": status}))


def refused(denied: Deny, rules: Rules) -> Answer:
    """A denial as the sender sees it."""
    status = problem_status(denied)
    headers: tuple[Header, ...] = ()
    if denied.retry_after_s is not None:
        headers += ((b"retry-after", b"%d" % denied.retry_after_s),)
    if status == HTTPStatus.UNAUTHORIZED:
        headers += ((b"www-authenticate", b"Bearer"),)
    return Answer(status, problem_body(denied, rules.policy_revision), headers, PROBLEM)


def unlogged(rules: Rules) -> Answer:
    """What cannot be recorded is neither delivered nor denied."""
    reason = "the disk of the hub is full or broken; nothing was delivered"
    return refused(Deny(code="log_unavailable", step="log", reason=reason, retry_after_s=2), rules)


def row_of_lost(instance: str, agent: str, letter: Letter, code: str, reason: str, wall_s: float) -> Row:
    """The row of a message that was delivered to an instance, and that it never gets."""
    return Row(
        time=wall_s,
        instance=instance,
        agent=agent,
        verdict="expired",
        code=code,
        step="deliver",
        reason=reason,
        msg_id=letter.message_id,
        decided_at=wall_s,
    )


def row_of_dropped(row: Row, recipient: str) -> Row:
    """The row of the copy that one subscriber does not get; `row` is that of the message, which others get."""
    return msgspec.structs.replace(
        row,
        verdict="deny",
        code="mailbox_full",
        step="deliver",
        reason="the mailbox of this subscriber is full; its copy was dropped",
        recipient=recipient,
        delivered=None,
        payload=None,
        payload_sha256=None,
    )


def describe_message(row: Row, message: Message, rules: Rules) -> None:
    """Fill the columns that say what the message is; its payload as the configuration wants it kept."""
    envelope = message.envelope
    row.msg_id, row.type, row.pattern = envelope.id, envelope.type, envelope.pattern
    row.recipient = envelope.to if envelope.topic is None else f"topic:{envelope.topic}"
    row.correlation_id, row.traceparent = envelope.correlation_id, envelope.traceparent
    row.size = message.size_bytes
    mode = rules.config.log.per_type.get(envelope.type, rules.config.log.payload)
    if mode == "keep":
        row.payload = bytes(envelope.payload).decode()
    elif mode == "hash":
        row.payload_sha256 = hashlib.sha256(envelope.payload).hexdigest()


def describe_decision(row: Row, decision: Decision) -> None:
    """Fill the columns that say who allowed it."""
    row.engine, row.policy_revision, row.cached = decision.engine, decision.revision, decision.cached
    row.decided_at = decision.decided_at or row.decided_at


def describe_denial(row: Row, denied: Deny) -> None:
    """Fill the columns that say why not: the true reason, where the sender is told another."""
    row.verdict, row.code, row.step = "deny", denied.code, denied.step
    row.reason = denied.private_reason or denied.reason
    if denied.engine:
        row.engine, row.policy_revision, row.cached = denied.engine, denied.policy_revision, denied.cached
        row.decided_at = denied.decided_at or row.decided_at
