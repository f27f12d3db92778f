"""Who calls: a token is accepted only on the socket of its own instance, and only until it expires. Pure."""

import hashlib
import hmac
from collections.abc import Sequence

from reconciler.egress.problem import Deny
from reconciler.router.answer import Header
from reconciler.router.registry import Token

_MAX_TOKEN = 4096
_WANTED = "send the instance's token, as 'Authorization: Bearer <token>' or 'x-api-key: <token>'"


def check_identity(tokens: Sequence[Token], headers: Sequence[Header], wall_s: float) -> Deny | None:
    """None when one of the tokens was shown, and nothing else. All are compared, each in constant time."""
    shown = {_read_token(name, value) for name, value in headers if name in (b"authorization", b"x-api-key")}
    if len(shown) != 1:
        return _deny(_WANTED)
    token = shown.pop()
    if not 0 < len(token) <= _MAX_TOKEN:
        return _deny(_WANTED)
    digest = hashlib.sha256(token).digest()
    expires_at = None
    for known in tokens:
        if hmac.compare_digest(known.sha256, digest):
            expires_at = known.expires_at
    if expires_at is None:
        return _deny("this token is not valid on this socket")
    return _deny("the token has expired") if expires_at <= wall_s else None


def _read_token(name: bytes, value: bytes) -> bytes:
    """Empty where a scheme other than Bearer is used."""
    if name == b"x-api-key":
        return value.strip()
    scheme, _, token = value.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _deny(reason: str) -> Deny:
    return Deny(status=401, code="unauthenticated", reason=reason)
