"""When something that is scheduled is due: a cron expression, its time zone and a span of time give instants. Pure.

Five fields, read as Debian's cron does. What stands at a fixed time is due once a day: right after the gap where the
clocks go forward over it, and the first of the two times where they go back. What stands with a `*` for minute or hour
goes on by real time. The zones come from the host's tz database.
"""

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_FIELDS = 5
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_SPANS = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=366), timedelta(days=8 * 366))


def check_cron(cron: str) -> None:
    """Raises ValueError with what is wrong."""
    if len(cron.split()) != _FIELDS:
        raise ValueError(f"{cron!r} is no cron expression; write five fields: minute hour day month weekday")
    try:
        first = next(CronSim(cron, _EPOCH), None)
    except CronSimError as exc:
        raise ValueError(f"{cron!r} is no cron expression: {str(exc).lower()}") from exc
    if first is None:
        raise ValueError(f"{cron!r} never comes")


def check_zone(zone: str) -> None:
    """Raises ValueError with what is wrong."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(f"{zone!r} is no time zone of this host; write one like Europe/Berlin, or UTC") from exc


@lru_cache(maxsize=4096)
def next_due(cron: str, zone: str, after: datetime) -> datetime | None:
    """The first instant (UTC) later than `after`; None where none comes in fifty years."""
    return next(_walk(cron, zone, after), None)


@lru_cache(maxsize=4096)
def last_due(cron: str, zone: str, after: datetime, until: datetime, limit: int) -> tuple[datetime, ...]:
    """The last `limit` instants (UTC) that are later than `after` and not later than `until`, in order."""
    for span in (*_SPANS, None):
        start = after if span is None else max(after, until - span)
        found = tuple(deque(takewhile(lambda due: due <= until, _walk(cron, zone, start)), maxlen=limit))
        if len(found) == limit or start == after:
            break
    return found


def _walk(cron: str, zone: str, after: datetime) -> Iterator[datetime]:
    """Instants later than `after`, each once: a gap of the clocks gives several times the same instant."""
    last = after.astimezone(UTC)
    for local in CronSim(cron, last.astimezone(ZoneInfo(zone))):
        instant = local.astimezone(UTC)
        if instant > last:
            last = instant
            yield instant
