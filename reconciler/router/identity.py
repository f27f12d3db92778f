"""Step 1: a bearer token is accepted only on the socket of its own instance, and only until it expires. Pure."""

import hashlib
import hmac
from collections.abc import Sequence

from reconciler.router.message import Deny, Envelope
from reconciler.router.registry import Instance

_MAX_TOKEN = 4096


def check(instance: Instance, headers: Sequence[tuple[bytes, bytes]], wall_s: float) -> Deny | None:
    """None when one of the instance's tokens was shown. All are compared, each in constant time."""
    shown = [value for name, value in headers if name == b"authorization"]
    if len(shown) != 1:
        return _deny("send one header 'Authorization: Bearer <token>'")
    scheme, _, token = shown[0].partition(b" ")
    if scheme.lower() != b"bearer" or not 0 < len(token) <= _MAX_TOKEN:
        return _deny("send one header 'Authorization: Bearer <token>'")
    digest = hashlib.sha256(token.strip()).digest()
    expires_at = None
    for known in instance.tokens:
        if hmac.compare_digest(known.sha256, digest):
            expires_at = known.expires_at
    if expires_at is None:
        return _deny("this token is not valid on this socket")
    if expires_at <= wall_s:
        return _deny("the token has expired")
    return None


def check_sender(instance: Instance, envelope: Envelope) -> Deny | None:
    """A `from` that is given must be true: the agent, or agent/instance."""
    if envelope.from_ is None or envelope.from_ in (instance.address, instance.agent):
        return None
    reason = f"from says {envelope.from_}, but this token belongs to {instance.address}; leave from out"
    return Deny(code="forbidden", step="identity", reason=reason)


def _deny(reason: str) -> Deny:
    return Deny(code="unauthenticated", step="identity", reason=reason)
