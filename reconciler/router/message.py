"""The envelope: bytes come in, a `Message` or a `Deny` goes out; and the shape of what the hub answers. Pure.

The parser is strict: JSON as of RFC 8259 in UTF-8, no duplicate keys, no unknown members, at most 64 levels deep. What
would take long to read, because of its many objects and lists, is refused unread.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from reconciler.core.members import find_repeated_key
from reconciler.core.message_type import is_reserved

HUB = "hub"
MAX_DEPTH = 64
MAX_PARTS = 100_000

Pattern = Literal["request", "reply", "event", "broadcast"]
Sensitivity = Literal["public", "internal", "confidential", "restricted"]

DOTTED = r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z"
_Id = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}\Z")]
_Dotted = Annotated[str, msgspec.Meta(max_length=100, pattern=DOTTED)]
ADDRESS = r"^[a-z0-9-]+(/[a-z0-9-]+)?\Z"
_Address = Annotated[str, msgspec.Meta(max_length=100, pattern=ADDRESS)]
_DOTTED, _ADDRESS = re.compile(DOTTED), re.compile(ADDRESS)

STATUS_BY_CODE: Mapping[str, int] = {
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown_or_forbidden_recipient": 403,
    "invalid_envelope": 400,
    "invalid_payload": 422,
    "too_large": 413,
    "rate_limited": 429,
    "mailbox_full": 429,
    "duplicate": 409,
    "expired": 410,
    "stale_generation": 409,
    "log_unavailable": 503,
    "policy_unavailable": 503,
    "internal": 500,
}
TITLE_BY_CODE: Mapping[str, str] = {
    "unauthenticated": "The token is not valid on this socket",
    "forbidden": "Policy does not allow this message",
    "unknown_or_forbidden_recipient": "There is no such recipient, or sending to it is not allowed",
    "invalid_envelope": "The message is not well-formed",
    "invalid_payload": "The payload does not conform to the schema of its type",
    "too_large": "The body is too large",
    "rate_limited": "Too much at once",
    "mailbox_full": "The recipient cannot take more messages now",
    "duplicate": "This was answered before",
    "expired": "Too late",
    "stale_generation": "The task has been assigned again since",
    "log_unavailable": "The message log cannot be written",
    "policy_unavailable": "No policy engine can answer",
    "internal": "The hub failed at this message",
}


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """What a sender writes. `payload` is the exact slice of the body, so that what is signed stays as it is."""

    id: str
    type: str
    pattern: Pattern
    to: str | None = None
    topic: str | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    correlation_id: str | None = None
    ttl_s: float | None = None
    sensitivity: Sensitivity = "internal"
    traceparent: str | None = None
    tracestate: str | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _StrictEnvelope(Envelope, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """The same with all that a value must be; slower, and used where a look does not tell."""

    id: _Id
    type: _Dotted
    to: _Address | None = None
    topic: _Dotted | None = None
    from_: _Address | None = msgspec.field(default=None, name="from")
    correlation_id: _Id | None = None
    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=31_536_000)] | None = None
    traceparent: Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[!-~]+\Z")] | None = None
    tracestate: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """A well-formed message: its envelope, its payload as Python values, and the size of the whole body in bytes."""

    envelope: Envelope
    payload: Any
    size_bytes: int


class Delivered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a recipient reads. `time` is UTC in seconds; `seq` counts a sender's messages of one router epoch from 1."""

    id: str
    from_: str = msgspec.field(name="from")
    type: str
    pattern: str
    to: str | None = None
    topic: str | None = None
    correlation_id: str | None = None
    time: float
    seq: int
    ttl_s: float
    sensitivity: str
    traceparent: str
    tracestate: str | None = None
    payload: msgspec.Raw


class Deny(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A step says no. `reason` goes to the sender; `private_reason`, where there is one, goes to the log instead.

    `is_forgery` where the sender claims to be another, which control is told of.
    """

    code: str
    step: str
    reason: str
    retry_after_s: int | None = None
    private_reason: str | None = None
    status: int | None = None
    engine: str = ""
    policy_revision: str = ""
    cached: bool = False
    decided_at: float | None = None
    is_forgery: bool = False


Parsed: TypeAlias = Message | Deny

_envelope_decoder = msgspec.json.Decoder(Envelope)
_strict_decoder = msgspec.json.Decoder(_StrictEnvelope)
_any_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_ESCAPED_COLON = re.compile(rb"\\u003a", re.IGNORECASE)


def parse_message(body: bytes) -> Parsed:
    """The message in `body`, or why it is not one; the reason never repeats the payload."""
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MAX_PARTS and (denied := check_parts(body)) is not None:
        return denied
    try:
        tree = _any_decoder.decode(body)
    except RecursionError:
        return _malformed(f"it is nested more than {MAX_DEPTH} levels deep")
    except UnicodeDecodeError as error:
        return _malformed(f"it is not UTF-8 (at byte {error.start} of a string)")
    except msgspec.DecodeError as error:
        return _malformed(str(error))
    if type(tree) is not dict:
        return _malformed("the body must be one JSON object")
    if brackets > MAX_DEPTH and _is_too_deep(tree):
        return _malformed(f"it is nested more than {MAX_DEPTH} levels deep")
    if (twice := _find_duplicate_key(body, tree)) is not None:
        return _malformed(f"the key {twice[:64]!a} stands twice in one object")
    try:
        envelope = _envelope_decoder.decode(body)
        if not _is_plain(envelope):
            envelope = _strict_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _malformed(str(error))
    if (wrong := _find_contradiction(envelope)) is not None:
        return _malformed(wrong)
    return Message(envelope, tree.get("payload"), len(body))


def check_parts(body: bytes) -> Deny | None:
    """Deny a body with more objects and lists than a message may have, without reading it."""
    if _count_brackets(body) <= MAX_PARTS or _count_brackets(_leave_out_texts(body)) <= MAX_PARTS:
        return None
    reason = f"it has more than {MAX_PARTS} objects and lists; put what it says into fewer, or into one text"
    return Deny(code="too_large", step="schema", reason=reason)


def problem_body(deny: Deny, policy_revision: str) -> bytes:
    """The denial as `application/problem+json` (RFC 9457)."""
    problem: dict[str, object] = {
        "type": f"urn:reconciler:problem:{deny.code}",
        "title": TITLE_BY_CODE[deny.code],
        "status": problem_status(deny),
        "code": deny.code,
        "step": deny.step,
        "reason": deny.reason,
        "policy_revision": deny.policy_revision or policy_revision,
    }
    if deny.retry_after_s is not None:
        problem["retry_after_s"] = deny.retry_after_s
    return _encoder.encode(problem)


def problem_status(deny: Deny) -> int:
    """The HTTP status of a denial."""
    return deny.status or STATUS_BY_CODE[deny.code]


def _malformed(reason: str) -> Deny:
    return Deny(code="invalid_envelope", step="schema", reason=reason)


def _count_brackets(body: bytes) -> int:
    return body.count(b"{") + body.count(b"[")


def _leave_out_texts(body: bytes) -> bytes:
    """What stands outside of quotes."""
    return b"".join(body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])


def _is_too_deep(tree: dict[str, Any]) -> bool:
    level: list[Any] = [tree]
    for _ in range(MAX_DEPTH):
        below = [node.values() if type(node) is dict else node for node in level]
        level = [child for children in below for child in children if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True


def _is_plain(envelope: Envelope) -> bool:
    """Whether all that it says is surely well-formed. What is rarely said is left to the strict decoder."""
    return (
        _is_id(envelope.id)
        and _is_dotted(envelope.type)
        and (envelope.to is None or _is_address(envelope.to))
        and (envelope.topic is None or _is_dotted(envelope.topic))
        and (envelope.correlation_id is None or _is_id(envelope.correlation_id))
        and envelope.from_ is None
        and envelope.ttl_s is None
        and envelope.traceparent is None
        and envelope.tracestate is None
    )


def _is_id(text: str) -> bool:
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text


@lru_cache(maxsize=4096)
def _is_dotted(text: str) -> bool:
    return len(text) <= 100 and _DOTTED.match(text) is not None


@lru_cache(maxsize=4096)
def _is_address(text: str) -> bool:
    return len(text) <= 100 and _ADDRESS.match(text) is not None


def _find_duplicate_key(body: bytes, tree: Mapping[str, Any]) -> str | None:
    """A key that stands twice in one object, or None.

    Each key has a colon, so there is none to spare where the body has no more colons than keys are known. Otherwise:
    the decoder keeps the last of two equal keys, so what is encoded again has fewer colons than the body, except where
    a string of the body hides a colon in an escape. Only when the counts differ is the slow way worth its time.
    """
    payload = tree.get("payload")
    if body.count(b":") == len(tree) + (len(payload) if type(payload) is dict else 0):
        return None
    encoded = _encoder.encode(tree)
    if body.count(b":") == encoded.count(b":") and not _ESCAPED_COLON.search(body):
        return None
    return find_repeated_key(body)


def _find_contradiction(envelope: Envelope) -> str | None:
    if envelope.pattern == "broadcast":
        return "only the hub broadcasts; send an event to an agent or to a topic"
    if is_reserved(envelope.type) and envelope.to != HUB:
        return f"{envelope.type} is a type of the hub's own and can only go to the hub"
    if envelope.pattern == "reply":
        if envelope.correlation_id is None:
            return "a reply needs correlation_id, the id of the request"
        return "a reply goes to who asked; leave topic out" if envelope.topic else None
    if (envelope.to is None) == (envelope.topic is None):
        return "exactly one of to and topic is needed"
    if envelope.pattern == "request" and envelope.topic:
        return "a request goes to one agent; use to instead of topic"
    return None
