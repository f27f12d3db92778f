"""Kind Link Protocol: signed messages of external peers become messages of the hub, and the other way round.

The bytes of a KLP message and the peer's public key come in; the message in the hub's own form, still to be parsed,
or a `Fault` goes out. Signed is the RFC 8785 form of the message without its `auth` member, with Ed25519:

    {"id": "…", "type": "TASK_RESULT", "from": "peer:peer-0", "to": "hub", "task_id": "…", "timestamp": "…Z",
     "payload": {…}, "auth": {"signature": "ed25519:<base64>"}}

`task_id` is `correlation_id`, `:` in addresses is `/`, and five types have names of their own (`NAME_BY_TYPE`). A
message is taken once, and within WINDOW_S of its `timestamp`. Wall time comes in as `wall_s`.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from reconciler.core.members import read_members
from reconciler.core.timestamp import read_timestamp, show_timestamp
from reconciler.identity.hub_key import SCHEME

WINDOW_S: Final = 300.0
MAX_REMEMBERED: Final = 10_000
MAX_VALUES: Final = 50_000

NAME_BY_TYPE: Final[Mapping[str, str]] = {
    "delegation.request": "TASK_REQUEST",
    "task.completed": "TASK_RESULT",
    "task.progress": "STATUS_UPDATE",
    "capability.query": "CAPABILITY_QUERY",
    "security.alert": "SECURITY_ALERT",
}
_NAME_BY_REPLY: Final[Mapping[str, str]] = {**NAME_BY_TYPE, "delegation.request": "TASK_RESULT"}
"""A reply has the type of its request; but what came of a delegated task is no request for one."""

_TYPE_BY_NAME: Final = {name: type_ for type_, name in NAME_BY_TYPE.items()}
_REQUESTS: Final = frozenset({"TASK_REQUEST", "CAPABILITY_QUERY"})
_REQUIRED: Final = ("id", "type", "from", "timestamp", "auth")
_TEXTS: Final = ("id", "type", "from", "to", "timestamp")
_SAME: Final = ("id", "topic", "ttl_s", "sensitivity", "traceparent", "tracestate")
_KNOWN: Final = frozenset({*_REQUIRED, *_SAME, "to", "pattern", "task_id", "payload", "seq"})

_encoder = msgspec.json.Encoder()


class Fault(NamedTuple):
    """Why a KLP message is refused; `code` is one of the route's."""

    code: str
    reason: str


class Opened(NamedTuple):
    """A message whose signature is good: in the hub's own form, and what its replay is known by."""

    message: bytes
    id: str
    signed_at: float


class Replays:
    """The ids of one peer's messages that were taken. Nothing signed before `since_s` is taken: that may be one."""

    __slots__ = ("_since_s", "_until_by_id")

    def __init__(self, since_s: float) -> None:
        self._since_s = since_s
        self._until_by_id: dict[str, float] = {}

    def begin(self, opened: Opened, wall_s: float) -> Fault | None:
        """Remember the message. When there is no room it is refused, since forgetting another would let that in."""
        if opened.signed_at < self._since_s:
            return Fault("expired", "it was signed before this router started; sign it again")
        if opened.id in self._until_by_id:
            return Fault("duplicate", "a message of this id was taken before; sign a new one under another id")
        if len(self._until_by_id) >= MAX_REMEMBERED:
            self._until_by_id = {i: until for i, until in self._until_by_id.items() if until >= wall_s}
            if len(self._until_by_id) >= MAX_REMEMBERED:
                return Fault("rate_limited", f"more than {MAX_REMEMBERED} messages in {2 * WINDOW_S:g} s")
        self._until_by_id[opened.id] = opened.signed_at + WINDOW_S
        return None

    def forget(self, opened: Opened) -> None:
        """It was refused after all, and may come again."""
        self._until_by_id.pop(opened.id, None)


def open_message(body: bytes, key: Ed25519PublicKey, token: bytes, wall_s: float) -> Opened | Fault:
    """The message in `body`, if `key` signed it lately. `token` is the bearer token that it came with."""
    if is_too_complex(body):
        return Fault("too_large", f"a signed message has at most {MAX_VALUES} values; put more into one text")
    members = read_members(body)
    if isinstance(members, str):
        return _malformed(members)
    missing = [name for name in _REQUIRED if name not in members]
    if missing:
        return _malformed(f"the member {missing[0]} is missing")
    unknown = next((name for name in members if name not in _KNOWN), None)
    if unknown is not None:
        return _malformed(f"there is no member {unknown[:64]!a} in KLP; put it into payload")
    try:
        fields = msgspec.json.decode(body)
        auth = fields.pop("auth")
        fault = _check_auth(auth, rfc8785.dumps(fields), key, token)
    except (RecursionError, UnicodeError, msgspec.DecodeError, rfc8785.CanonicalizationError) as error:
        return _malformed(f"it has no canonical form of RFC 8785 ({type(error).__name__})")
    return fault or _open(fields, members, wall_s)


def is_too_complex(body: bytes) -> bool:
    """Whether there may be more values in it than can be brought into canonical form in a moment."""
    return body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES


def seal_message(delivered: bytes, key: Ed25519PrivateKey, wall_s: float) -> bytes:
    """A message as its recipient reads it, as KLP, signed now."""
    message: dict[str, Any] = msgspec.json.decode(delivered)
    sealed = {name: value for name, value in message.items() if name not in ("from", "to", "correlation_id", "time")}
    names = _NAME_BY_REPLY if message.get("pattern") == "reply" else NAME_BY_TYPE
    sealed["type"] = names.get(message["type"], message["type"])
    sealed["timestamp"] = show_timestamp(wall_s)
    sealed |= {name: message[name].replace("/", ":") for name in ("from", "to") if name in message}
    if "correlation_id" in message:
        sealed["task_id"] = message["correlation_id"]
    return sign(sealed, key)


def sign(fields: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A KLP message without `auth`, signed. Raises rfc8785.CanonicalizationError."""
    signature = base64.b64encode(key.sign(rfc8785.dumps(dict(fields)))).decode()
    return _encoder.encode({**fields, "auth": {"signature": SCHEME + signature}})


def _check_auth(auth: object, signed: bytes, key: Ed25519PublicKey, token: bytes) -> Fault | None:
    if not isinstance(auth, dict) or not auth.keys() <= {"signature", "token"}:
        return _malformed("auth is an object with signature and, if need be, token")
    shown = auth.get("token")
    if shown is not None and not (isinstance(shown, str) and hmac.compare_digest(shown.encode(), token)):
        return Fault("unauthenticated", "auth.token is not the token of the Authorization header; leave it out")
    signature = auth.get("signature")
    if not isinstance(signature, str) or not signature.startswith(SCHEME):
        return Fault("unauthenticated", f"auth.signature is {SCHEME} and a signature in base64")
    try:
        key.verify(base64.b64decode(signature.removeprefix(SCHEME), validate=True), signed)
    except (InvalidSignature, binascii.Error, ValueError):
        reason = "the signature does not fit the message (RFC 8785, without auth) and the peer's public key"
        return Fault("unauthenticated", reason)
    return None


def _open(fields: dict[str, Any], members: Mapping[str, msgspec.Raw], wall_s: float) -> Opened | Fault:
    """What was signed, in the hub's own form. `payload` goes on as the bytes it came in."""
    wrong = next((name for name in _TEXTS if not isinstance(fields.get(name, ""), str)), None)
    if wrong is not None:
        return _malformed(f"{wrong} is not text")
    signed_at = read_timestamp(fields["timestamp"])
    if signed_at is None:
        return _malformed("timestamp is not one of RFC 3339, such as 2026-11-21T08:00:00Z")
    if abs(wall_s - signed_at) > WINDOW_S:
        return Fault("expired", f"timestamp is more than {WINDOW_S:g} s from the hub's time")
    pattern = _read_pattern(fields)
    if isinstance(pattern, Fault):
        return pattern
    message: dict[str, Any] = {name: fields[name] for name in _SAME if name in fields}
    message |= {name: fields[name].replace(":", "/") for name in ("from", "to") if name in fields}
    message |= {"type": _TYPE_BY_NAME.get(fields["type"], fields["type"]), "pattern": pattern}
    if "task_id" in fields:
        message["correlation_id"] = fields["task_id"]
    message["payload"] = members.get("payload", msgspec.Raw(b"null"))
    return Opened(_encoder.encode(message), fields["id"], signed_at)


def _read_pattern(fields: Mapping[str, Any]) -> Any:
    """The pattern: named by the type where that is a KLP name, else by the sender, `event` where it says none."""
    name = fields["type"]
    if name in NAME_BY_TYPE:
        return _malformed(f"{name} is called {NAME_BY_TYPE[name]} in KLP")
    if name not in _TYPE_BY_NAME:
        return fields.get("pattern", "event")
    pattern = "request" if name in _REQUESTS else "event"
    if fields.get("pattern", pattern) != pattern:
        return _malformed(f"{name} is of pattern {pattern}; leave pattern out")
    return pattern


def _malformed(reason: str) -> Fault:
    return Fault("invalid_envelope", reason)
