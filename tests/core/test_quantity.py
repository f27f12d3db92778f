"""Durations, sizes and rates as people write them, and as they are shown."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from reconciler.core.quantity import (
    NORMALISED,
    ByteRate,
    Duration,
    Rate,
    Size,
    parse_byte_rate,
    parse_count,
    parse_count_rate,
    parse_duration_s,
    parse_size_bytes,
    show_duration,
    show_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("10s", 10.0), ("5m", 300.0), ("8h", 28800.0), ("7d", 604800.0), ("1.5h", 5400.0), ("10 s", 10.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("0B", 0), ("512KiB", 2**19), ("256MiB", 2**28), ("1GiB", 2**30), ("1.5KiB", 1536)]
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


def test_rates() -> None:
    assert (parse_count_rate("60/min"), parse_count_rate("5/s"), parse_count_rate("36/h")) == (1.0, 5.0, 0.01)
    assert parse_byte_rate("60MiB/min") == 2**20


@pytest.mark.parametrize(
    ("parse", "bad", "example"),
    [
        (
            parse_duration_s,
            ["5", 5, 5.0, True, None, "-5s", "5 weeks", "5mm", "s", "1e3s", "5s\n", "\u0665s", "5\n s", "5\u00a0s"],
            "'30s'",
        ),
        (parse_size_bytes, ["512", 512, "512MB", "512mib", "-1B", "", "1 G", [1]], "'512MiB'"),
        (parse_count_rate, ["60", "\u0666/s", "60/week", "1.5/s", "/s", "-1/s", 60], "'60/min'"),
        (parse_byte_rate, ["60MiB", "60/min", "60MiB/week", 60], "'10MiB/min'|'512MiB'"),
    ],
)
def test_what_is_no_quantity_is_refused_with_an_example(
    parse: Callable[[object], float], bad: list[object], example: str
) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=example):
            parse(value)


def test_a_duration_has_an_end_so_that_adding_it_to_a_date_cannot_fail() -> None:
    assert parse_duration_s("3650d") == 3650 * 86400
    with pytest.raises(ValueError, match="is longer than 3650d"):
        parse_duration_s("999999999999d")


class Quantities(BaseModel):
    duration: Duration
    size: Size
    rate: Rate
    bytes: ByteRate


def test_numbers_are_only_taken_from_what_was_normalised_before() -> None:
    numbers = {"duration": 30.0, "size": 1024, "rate": 1.5, "bytes": 2.0}
    with pytest.raises(ValidationError) as caught:
        Quantities.model_validate(numbers)
    assert caught.value.error_count() == 4
    assert Quantities.model_validate(numbers, context=NORMALISED).model_dump() == numbers


@given(st.integers(1, 3650), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_shown_duration_means_what_was_written(number: int, unit: str) -> None:
    seconds = parse_duration_s(f"{number}{unit}")
    shown = parse_duration_s(show_duration(seconds))
    assert shown == pytest.approx(seconds, rel=0.5 if seconds < 1 else 0.05, abs=0.001)


@given(st.integers(0, 10**12 - 1))
def test_a_shown_size_means_exactly_what_was_written(size_bytes: int) -> None:
    assert parse_size_bytes(show_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.25, "250ms"), (1.0, "1s"), (2.5, "2.5s"), (300.0, "5m"), (90.0, "90s"), (86400.0, "1d"), (33.4, "33s")],
)
def test_durations_are_shown_in_the_largest_unit_that_divides_them(seconds: float, shown: str) -> None:
    assert show_duration(seconds) == shown


@pytest.mark.parametrize(("text", "count"), [("32k", 32_000), ("1.5M", 1_500_000), ("0 k", 0), (7, 7), (0, 0)])
def test_counts(text: object, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["32", "32K", "k", "-1k", -1, True, 1.5, None, "1e3", 10**12])
def test_what_is_no_count_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a count"):
        parse_count(text)
