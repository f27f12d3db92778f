"""A span of time as people write it on the command line: days, instants, or how long ago. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from reconciler.core.quantity import parse_duration_s

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From `since` (included) until `until` (not included), both UTC; None is open."""

    since: datetime | None = None
    until: datetime | None = None

    @property
    def texts(self) -> tuple[str, str]:
        """As the columns of the log are compared: ISO 8601, empty where it is open."""
        return (self.since.isoformat() if self.since else "", self.until.isoformat() if self.until else "")

    @property
    def seconds(self) -> tuple[float | None, float | None]:
        """As the message log counts."""
        return (self.since.timestamp() if self.since else None, self.until.timestamp() if self.until else None)

    def __str__(self) -> str:
        since = self.since.isoformat(timespec="seconds") if self.since else "the beginning"
        until = self.until.isoformat(timespec="seconds") if self.until else "now"
        return f"{since} to {until}"


def parse_period(text: str, now: datetime) -> Period | None:
    """`2026-11-21`, `2026-11-01..2026-11-08`, `2026-11-21T08:00..`, `24h`; None where it is nothing of that sort.

    A day includes its last instant, also as the end of a span.
    """
    if ".." in text:
        first, _, last = text.partition("..")
        return parse_span(first, last, now)
    if _DAY.fullmatch(text):
        return parse_span(text, text, now)
    since = _parse_instant(text, now)
    return Period(since=since) if since is not None else None


def parse_span(first: str, last: str, now: datetime) -> Period | None:
    """From one to the other, each may be empty; None where one of them is no time."""
    since, until = _parse_instant(first, now), _parse_instant(last, now)
    if (first and since is None) or (last and until is None):
        return None
    if until is not None and _DAY.fullmatch(last):
        until += timedelta(days=1)
    return Period(since=since, until=until)


def _parse_instant(text: str, now: datetime) -> datetime | None:
    """An instant without a zone is UTC; a duration is that long before now."""
    try:
        instant = datetime.fromisoformat(text)
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return now - timedelta(seconds=parse_duration_s(text))
    except (ValueError, OverflowError):
        return None
