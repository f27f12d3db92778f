"""Spans of time as people write them."""

from datetime import UTC, datetime

import pytest

from reconciler.audit.period import Period, parse_period, parse_span

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, number, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("24h", Period(since=day(20, 12))),
        ("2026-11-20", Period(since=day(20), until=day(21))),
        ("2026-11-18..2026-11-20", Period(since=day(18), until=day(21))),
        ("2026-11-18T08:00..2026-11-18T09:00", Period(since=day(18, 8), until=day(18, 9))),
        ("2026-11-18T10:00+02:00..", Period(since=day(18, 8))),
        ("..2026-11-20", Period(until=day(21))),
        ("48h..24h", Period(since=day(19, 12), until=day(20, 12))),
        ("2026-11-18T08:00:00Z", Period(since=day(18, 8))),
        ("..", Period()),
    ],
)
def test_a_span_is_read(text: str, period: Period) -> None:
    assert parse_period(text, NOW) == period


@pytest.mark.parametrize("text", ["writer", "4f2a91c", "2026-13-01", "24", "a..b", "2026-11-20..b", "", "9999999d"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_period(text, NOW) is None


def test_open_ends_are_empty_for_the_log() -> None:
    assert parse_span("", "", NOW) == Period()
    assert Period().texts == ("", "")
    assert Period(since=day(20)).texts == ("2026-11-20T00:00:00+00:00", "")
    assert Period(until=day(20)).seconds == (None, day(20).timestamp())
    assert str(Period(since=day(20))) == "2026-11-20T00:00:00+00:00 to now"
