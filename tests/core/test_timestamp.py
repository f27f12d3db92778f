"""Timestamps: what RFC 3339 allows, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.timestamp import read_timestamp, show_timestamp


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01t00:00:01.25z", 1.25),
        ("1970-01-01T02:00:00+02:00", 0.0),
        ("1969-12-31T23:00:00.123456789-01:00", 0.123456),
    ],
)
def test_a_timestamp_with_a_zone_is_read(text: str, seconds: float) -> None:
    assert read_timestamp(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1970-01-01",
        "1970-01-01T00:00:00",
        "1970-01-01 00:00:00Z",
        "1970-13-01T00:00:00Z",
        "1970-01-01T25:00:00Z",
        "1970-01-01T00:00:00Z\n",
        "1970-01-01T00:00:00.Z",
        "\uff11970-01-01T00:00:00Z",
        "19700101T000000Z",
    ],
)
def test_anything_else_is_not(text: str) -> None:
    assert read_timestamp(text) is None


@given(st.integers(0, 4_000_000_000_000))
def test_what_is_shown_is_read_again_to_the_millisecond(milliseconds: int) -> None:
    assert read_timestamp(show_timestamp(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=0.001)
