"""Step 2, after the size: how many messages and bytes an instance may send, as token buckets. Pure.

Quotas and times come in, None or a `rate_limited` denial goes out, and whether it is time to stop reading or to tell
somebody. What the hub itself asks of an instance (`agent.hello`, `task.completed` and their kin) is paid from a bucket
of its own, so that a used-up quota costs an agent neither its heartbeats nor its results.

A bucket holds a minute's worth and fills steadily. Times are seconds of CLOCK_BOOTTIME. The fields are those of
draft-ietf-httpapi-ratelimit-headers-11.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Final

import msgspec

from reconciler.core.message_type import is_reserved
from reconciler.router.message import Deny

WINDOW_S: Final = 60.0
_WINDOWS_S: Final = (60, 3600, 86400)
_NEARLY: Final = 1e-6

PAUSE_S: Final = 1.0
_PAUSE_AFTER, _PAUSE_WITHIN_S = 3, 10.0
_ALARM_AFTER, _ALARM_WITHIN_S, _QUIET_S = 30, 60.0, 60.0

_Rate = Annotated[float, msgspec.Meta(ge=0)]


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Messages and bytes per second. 0 lets nothing through."""

    messages_per_s: _Rate = 10.0
    bytes_per_s: _Rate = float(2**20)


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for each instance of one agent: for its own messages, for those that the hub asks of it, by type."""

    own: Limit
    hub: Limit
    by_type: Mapping[str, Limit] = {}


class Bucket:
    """A minute's worth of messages and bytes. A message that is larger than all of it passes when it is full."""

    __slots__ = ("_at", "_bytes", "_bytes_per_s", "_messages", "_messages_per_s", "_most_bytes", "_most_messages")

    def __init__(self, limit: Limit, now: float) -> None:
        self._at = now
        self._set(limit)
        self._messages, self._bytes = self._most_messages, self._most_bytes

    def change(self, limit: Limit, now: float) -> None:
        """Another limit from now on; what is in it stays, as far as it fits."""
        self._fill(now)
        self._set(limit)
        self._fill(now)

    def take(self, now: float, size_bytes: int) -> float:
        """Take one message out, and answer 0; else take nothing, and answer after how many seconds it will fit."""
        elapsed, self._at = now - self._at, now
        messages = self._messages + elapsed * self._messages_per_s
        if messages > self._most_messages:
            messages = self._most_messages
        bytes_ = self._bytes + elapsed * self._bytes_per_s
        if bytes_ > self._most_bytes:
            bytes_ = self._most_bytes
        if messages >= 1 - _NEARLY and (bytes_ >= size_bytes or bytes_ >= self._most_bytes > 0):
            self._messages, self._bytes = messages - 1, bytes_ - size_bytes
            return 0.0
        self._messages, self._bytes = messages, bytes_
        return self._wait_s(size_bytes)

    def can_take(self, now: float, size_bytes: int) -> bool:
        """Whether `take` would."""
        elapsed = now - self._at
        if self._messages + elapsed * self._messages_per_s < 1 - _NEARLY:
            return False
        bytes_ = self._bytes + elapsed * self._bytes_per_s
        return bytes_ >= size_bytes or bytes_ >= self._most_bytes > 0

    def wait_s(self, now: float, size_bytes: int) -> float:
        """For how many seconds `take` would not."""
        self._fill(now)
        return self._wait_s(size_bytes)

    def left(self, now: float) -> tuple[int, int]:
        """Whole messages and bytes in it."""
        self._fill(now)
        return int(self._messages + _NEARLY), max(0, int(self._bytes))

    def _set(self, limit: Limit) -> None:
        self._messages_per_s, self._bytes_per_s = limit.messages_per_s, limit.bytes_per_s
        self._most_messages = max(1.0, limit.messages_per_s * WINDOW_S) if limit.messages_per_s else 0.0
        self._most_bytes = limit.bytes_per_s * WINDOW_S

    def _fill(self, now: float) -> None:
        elapsed, self._at = now - self._at, now
        self._messages = min(self._most_messages, self._messages + elapsed * self._messages_per_s)
        self._bytes = min(self._most_bytes, self._bytes + elapsed * self._bytes_per_s)

    def _holds(self, size_bytes: int) -> bool:
        return self._bytes >= size_bytes or self._bytes >= self._most_bytes > 0

    def _wait_s(self, size_bytes: int) -> float:
        waits = [0.0]
        if self._messages < 1 - _NEARLY:
            waits.append((1 - self._messages) / self._messages_per_s if self._messages_per_s else math.inf)
        if not self._holds(size_bytes):
            lacking = min(size_bytes, self._most_bytes) - self._bytes
            waits.append(lacking / self._bytes_per_s if self._bytes_per_s else math.inf)
        return max(waits)


class Allowance:
    """All buckets of one instance. `limits` may be other ones at each call: a new configuration holds at once."""

    __slots__ = ("_by_type", "_hub", "_limits", "_own")

    def __init__(self, limits: Quotas, now: float) -> None:
        self._limits = limits
        self._own, self._hub = Bucket(limits.own, now), Bucket(limits.hub, now)
        self._by_type: dict[str, Bucket] = {}

    def admit(self, limits: Quotas, now: float, size_bytes: int) -> Deny | None:
        """Before anything is parsed: whether any bucket could pay for a message of this size. Nothing is taken."""
        if limits is not self._limits:
            self._change(limits, now)
        if self._own.can_take(now, size_bytes) or self._hub.can_take(now, size_bytes):
            return None
        return _deny(limits.own, self._own.wait_s(now, size_bytes), "")

    def charge(self, limits: Quotas, now: float, type_: str, size_bytes: int) -> Deny | None:
        """Take one message of a known type. One that its type's bucket does not pay for costs the quota nothing."""
        if limits is not self._limits:
            self._change(limits, now)
        if limits.by_type and (limit := limits.by_type.get(type_)) is not None:
            bucket = self._by_type.get(type_)
            if bucket is None:
                bucket = self._by_type[type_] = Bucket(limit, now)
            if wait_s := bucket.take(now, size_bytes):
                return _deny(limit, wait_s, type_)
        if is_reserved(type_):
            wait_s = self._hub.take(now, size_bytes)
            return _deny(limits.hub, wait_s, "what goes to the hub") if wait_s else None
        wait_s = self._own.take(now, size_bytes)
        return _deny(limits.own, wait_s, "") if wait_s else None

    def show_left(self, now: float) -> str:
        """The value of the field `RateLimit`."""
        limit = self._limits.own
        messages, bytes_ = self._own.left(now)
        return (
            f'"messages";r={messages};t={_effective_s(messages, limit.messages_per_s)},'
            f'"bytes";r={bytes_};t={_effective_s(bytes_, limit.bytes_per_s)}'
        )

    def left(self, now: float) -> Mapping[str, int]:
        """What the quota holds, for the instance that asks about itself."""
        messages, bytes_ = self._own.left(now)
        return {"messages": messages, "bytes": bytes_}

    def _change(self, limits: Quotas, now: float) -> None:
        self._limits = limits
        self._own.change(limits.own, now)
        self._hub.change(limits.hub, now)
        self._by_type = {t: b for t, b in self._by_type.items() if t in limits.by_type}
        for type_, bucket in self._by_type.items():
            bucket.change(limits.by_type[type_], now)


class LineDenials:
    """The denials of one connection. One that goes on after three in ten seconds is not read from for a while."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: list[float] = []

    def note(self, now: float) -> float:
        """One more. For how many seconds not to read from the connection: 0 or PAUSE_S."""
        self._times = [*self._times[1 - _PAUSE_AFTER :], now]
        is_due = len(self._times) == _PAUSE_AFTER and now - self._times[0] <= _PAUSE_WITHIN_S
        return PAUSE_S if is_due else 0.0


class InstanceDenials:
    """The denials of one instance. Thirty in a minute are told once, and again only after a minute without any."""

    __slots__ = ("_is_told", "_times")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._is_told = False

    def note(self, now: float) -> bool:
        """One more. True when this is the one to be told of."""
        if self._times and now - self._times[-1] >= _QUIET_S:
            self._is_told = False
        self._times = [*self._times[1 - _ALARM_AFTER :], now]
        is_flood = len(self._times) == _ALARM_AFTER and now - self._times[0] <= _ALARM_WITHIN_S
        is_due = is_flood and not self._is_told
        self._is_told = self._is_told or is_flood
        return is_due


@lru_cache(maxsize=1024)
def show_policy(limit: Limit) -> str:
    """The value of the field `RateLimit-Policy`."""
    messages, messages_s = _quota(limit.messages_per_s)
    bytes_, bytes_s = _quota(limit.bytes_per_s)
    return f'"messages";q={messages};w={messages_s},"bytes";q={bytes_};qu="content-bytes";w={bytes_s}'


def _quota(per_s: float) -> tuple[int, int]:
    """The rate as a whole number in a window of seconds: per minute, else per hour, else per day."""
    for window_s in _WINDOWS_S:
        quota = per_s * window_s
        if abs(quota - round(quota)) < _NEARLY * window_s:
            return round(quota), window_s
    return int(per_s * _WINDOWS_S[-1]), _WINDOWS_S[-1]


def _effective_s(left: int, per_s: float) -> int:
    """Within which time no more than `left` can be used without being stopped: as long as it takes to come back."""
    return max(1, math.ceil(max(left, 1) / per_s)) if per_s else _WINDOWS_S[-1]


def _deny(limit: Limit, wait_s: float, what: str) -> Deny:
    messages, messages_s = _quota(limit.messages_per_s)
    bytes_, bytes_s = _quota(limit.bytes_per_s)
    reason = f"more than {messages} messages in {messages_s} s or {bytes_} bytes in {bytes_s} s"
    return Deny(
        code="rate_limited",
        step="rate",
        reason=f"{reason} ({what})" if what else reason,
        retry_after_s=math.ceil(wait_s) if math.isfinite(wait_s) else None,
    )
