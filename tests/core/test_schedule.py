"""Cron expressions with time zones: when the clocks are changed, far back, and what is no expression at all."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.schedule import check_cron, check_zone, last_due, next_due

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def upcoming(cron: str, zone: str, after: str, count: int) -> list[str]:
    """The next instants, in UTC."""
    out, now = [], at(after)
    for _ in range(count):
        now = next_due(cron, zone, now) or now
        out.append(now.strftime("%m-%d %H:%M"))
    return out


def test_an_expression_is_read_in_its_zone() -> None:
    assert upcoming("0 6 * * 1", BERLIN, "2026-07-01", 2) == ["07-06 04:00", "07-13 04:00"]
    assert upcoming("0 6 * * 1", BERLIN, "2026-12-01", 1) == ["12-07 05:00"]
    assert upcoming("0 6 * * 1", "UTC", "2026-07-01", 1) == ["07-06 06:00"]


def test_what_is_due_in_the_gap_is_due_once_when_the_gap_is_over() -> None:
    # On 2026-03-29 it is 01:59 and then 03:00 in Berlin, at 01:00 UTC.
    assert upcoming("30 2 * * *", BERLIN, "2026-03-28", 3) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]
    assert upcoming("0,30 2,3 * * *", BERLIN, "2026-03-29T00:00", 3) == ["03-29 01:00", "03-29 01:30", "03-30 00:00"]


def test_what_is_due_in_the_hour_that_comes_twice_is_due_once() -> None:
    # On 2026-10-25 it is 02:59 and then 02:00 again in Berlin, at 01:00 UTC.
    assert upcoming("30 2 * * *", BERLIN, "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]
    assert upcoming("45 2 * * *", BERLIN, "2026-10-25T01:10", 1) == ["10-26 01:45"]


def test_what_goes_by_the_hour_goes_on_through_both_changes() -> None:
    assert upcoming("0 * * * *", BERLIN, "2026-03-28T23:30", 3) == ["03-29 00:00", "03-29 01:00", "03-29 02:00"]
    assert upcoming("*/30 * * * *", BERLIN, "2026-10-24T23:45", 5) == [
        "10-25 00:00",
        "10-25 00:30",
        "10-25 01:00",
        "10-25 01:30",
        "10-25 02:00",
    ]


def test_the_last_ones_are_found_however_long_ago_the_first_was() -> None:
    assert last_due("* * * * *", "UTC", at("2020-01-01"), at("2026-01-01T00:00:30"), 2) == (
        at("2025-12-31T23:59"),
        at("2026-01-01"),
    )
    assert last_due("0 0 29 2 *", "UTC", at("1999-01-01"), at("2026-01-01"), 1) == (at("2024-02-29"),)
    assert last_due("0 0 1 * *", "UTC", at("2026-01-15"), at("2026-01-31"), 5) == ()
    assert last_due("0 0 1 * *", "UTC", at("2026-02-15"), at("2026-02-01"), 5) == ()


def test_an_instant_that_is_now_is_due_and_not_due_again() -> None:
    noon = at("2026-01-01T12:00")
    assert last_due("0 12 * * *", "UTC", noon - timedelta(minutes=1), noon, 5) == (noon,)
    assert last_due("0 12 * * *", "UTC", noon, noon + timedelta(hours=1), 5) == ()
    assert next_due("0 12 * * *", "UTC", noon) == noon + timedelta(days=1)


ZONES = [BERLIN, "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC", "Asia/Kathmandu"]
CRONS = ["30 2 * * *", "0 * * * *", "*/7 1-3 * * *", "15 0,2,3 * * 0", "0 6 * * 1", "59 23 L * *", "0 0,1 * 3,10 *"]


@settings(max_examples=60, deadline=None)
@given(
    cron=st.sampled_from(CRONS),
    zone=st.sampled_from(ZONES),
    begin=st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)),
    ahead=st.timedeltas(timedelta(0), timedelta(days=9)),
    between=st.timedeltas(timedelta(0), timedelta(days=9)),
)
def test_where_one_begins_to_look_changes_nothing_of_what_is_due(
    cron: str, zone: str, begin: datetime, ahead: timedelta, between: timedelta
) -> None:
    start = begin.replace(tzinfo=UTC)
    middle, end = start + ahead, start + ahead + between
    whole = step_by_step(cron, zone, start, end)
    assert whole == sorted(set(whole))
    assert whole == [*step_by_step(cron, zone, start, middle), *step_by_step(cron, zone, middle, end)]
    assert last_due(cron, zone, start, end, 3) == tuple(whole[-3:])


def step_by_step(cron: str, zone: str, after: datetime, until: datetime) -> Sequence[datetime]:
    out: list[datetime] = []
    while (due := next_due(cron, zone, out[-1] if out else after)) is not None and due <= until:
        out.append(due)
    return out


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("@daily", "is no cron expression; write five fields"),
        ("0 0 6 * * 1", "is no cron expression; write five fields"),
        ("61 6 * * 1", "is no cron expression: bad minute"),
        ("0 6 * * MOON", "is no cron expression: bad day-of-week"),
        ("0 0 30 2 *", "is no cron expression: bad day-of-month"),
        ("* * */20 * 1L", "never comes"),
        ("", "is no cron expression"),
    ],
)
def test_what_is_no_expression_is_told(cron: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_cron(cron)


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../etc/passwd", "/etc/passwd", "", "Europe", "ä"])
def test_what_is_no_zone_is_told(zone: str) -> None:
    with pytest.raises(ValueError, match="is no time zone of this host"):
        check_zone(zone)


def test_what_is_one_is_taken() -> None:
    for cron in (*CRONS, "0 6 * JAN MON-FRI"):
        check_cron(cron)
    for zone in ZONES:
        check_zone(zone)
