"""Step 2: how many bytes may be on their way in, and how much an instance may send at all.

Counted are bodies from their announcement until their verdict, per instance and over all, so that
memory is bounded however many agents write at once. A body of unknown length is refused. Quotas
(`buckets.py`) are looked at before anything is parsed, and charged as soon as the type is known.
"""

from reconciler.router.answer import Header
from reconciler.router.buckets import Allowance, Quotas, show_policy
from reconciler.router.message import Deny
from reconciler.router.registry import Instance

_BODIES_PER_INSTANCE = 8
_BODIES = 64


class Intake:
    """The bytes of all bodies that are being read or decided on."""

    def __init__(self) -> None:
        self.in_flight_bytes = 0

    def admit(self, instance: Instance, size_bytes: int | None, max_body_bytes: int) -> Deny | None:
        """Count the body in; each None wants a `leave` of the same size."""
        if size_bytes is None:
            reason = "send the body with Content-Length, not in chunks"
            return Deny(code="invalid_envelope", step="rate", reason=reason, status=411)
        if size_bytes > max_body_bytes:
            reason = f"a message has at most {max_body_bytes} bytes, this one has {size_bytes}"
            return Deny(code="too_large", step="rate", reason=reason)
        if (
            instance.in_flight_bytes + size_bytes > _BODIES_PER_INSTANCE * max_body_bytes
            or self.in_flight_bytes + size_bytes > _BODIES * max_body_bytes
        ):
            reason = "too many bytes are on their way at once; wait for earlier answers"
            return Deny(code="rate_limited", step="rate", reason=reason, retry_after_s=1)
        instance.in_flight_bytes += size_bytes
        self.in_flight_bytes += size_bytes
        return None

    def leave(self, instance: Instance, size_bytes: int | None) -> None:
        """The message got its verdict."""
        size_bytes = size_bytes or 0
        instance.in_flight_bytes -= size_bytes
        self.in_flight_bytes -= size_bytes


def find_allowance(instance: Instance, quotas: Quotas, now: float) -> Allowance:
    """What is left of the instance's quotas; all of them when it is first asked for."""
    if instance.allowance is None:
        instance.allowance = Allowance(quotas, now)
    return instance.allowance


def show_fields(instance: Instance, quotas: Quotas, now: float) -> tuple[Header, ...]:
    """The fields `RateLimit` and `RateLimit-Policy` of an answer."""
    left = find_allowance(instance, quotas, now).show_left(now)
    return ((b"ratelimit", left.encode()), (b"ratelimit-policy", show_policy(quotas.own).encode()))
