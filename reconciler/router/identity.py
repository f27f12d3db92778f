"""Step 1: a bearer token is accepted only on the socket of its own instance, and only until it expires. Pure.

A connection by TLS is on no instance's socket until a token was shown on it: then it is on that instance's.
"""

import hashlib
import hmac
from collections.abc import Sequence

from reconciler.router.message import Deny, Envelope
from reconciler.router.registry import Instance

SIGNED = b"application/klp+json"
_MAX_TOKEN = 4096


def check(instance: Instance, headers: Sequence[tuple[bytes, bytes]], wall_s: float) -> Deny | None:
    """None when one of the instance's tokens was shown. All are compared, each in constant time."""
    digest = read_digest(headers)
    if digest is None:
        return _deny("send one header 'Authorization: Bearer <token>'")
    expires_at = None
    for known in instance.tokens:
        if hmac.compare_digest(known.sha256, digest):
            expires_at = known.expires_at
    if expires_at is None:
        return _deny("this token is not valid on this socket")
    if expires_at <= wall_s:
        return _deny("the token has expired")
    return None


def read_digest(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The SHA-256 of the bearer token that was shown; None where there is not exactly one."""
    shown = b""
    for name, value in headers:
        if name == b"authorization":
            if shown:
                return None
            shown = value
    scheme, _, token = shown.partition(b" ")
    if scheme.lower() != b"bearer" or not 0 < len(token) <= _MAX_TOKEN:
        return None
    return hashlib.sha256(token.strip()).digest()


def deny_unknown() -> Deny:
    """Whoever shows no token of an instance that comes in by TLS; a wrong one, and one of a socket, look the same."""
    return _deny("this token is not valid here; send one header 'Authorization: Bearer <token>'")


def deny_crowd(most: int) -> Deny:
    """One connection more than an instance may have."""
    reason = f"this instance has {most} connections; close some"
    return Deny(code="rate_limited", step="identity", reason=reason, retry_after_s=1)


def check_sender(instance: Instance, envelope: Envelope) -> Deny | None:
    """A `from` that is given must be true: the agent, or agent/instance."""
    if envelope.from_ is None or envelope.from_ in (instance.address, instance.agent):
        return None
    reason = f"from says {envelope.from_}, but this token belongs to {instance.address}; leave from out"
    return Deny(code="forbidden", step="identity", reason=reason, is_forgery=True)


def is_signed(content_type: bytes) -> bool:
    """Whether a Content-Type says that the body is a KLP message."""
    return content_type.partition(b";")[0].strip().lower() == SIGNED


def deny_stranger(instance: Instance) -> Deny:
    """It signs, and nobody knows its key."""
    return _deny(f"the manifest of {instance.agent} names no messaging.klp.publicKey to check a signature with")


def deny_unsigned(instance: Instance, *, is_peer: bool) -> Deny:
    """It does not sign what has to be signed."""
    why = f"{instance.agent} is a peer that signs" if is_peer else "orchestrator.cryptoRequired is true"
    reason = f"{why}: what it sends to others comes as {SIGNED.decode()}"
    return Deny(code="forbidden", step="identity", reason=reason)


def _deny(reason: str) -> Deny:
    return Deny(code="unauthenticated", step="identity", reason=reason)
