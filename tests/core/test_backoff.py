"""Back-off: doubles, is capped, and never waits longer than the exact value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.backoff import backoff_s


def test_each_failure_doubles_the_wait_up_to_the_cap() -> None:
    waits = [backoff_s(n, base_s=1.0, cap_s=10.0, jitter=1.0) for n in range(1, 7)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_without_jitter_the_wait_is_half() -> None:
    assert backoff_s(3, base_s=1.0, jitter=0.0) == 2.0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_positive_and_never_over_the_cap(failures: int, jitter: float) -> None:
    assert 0 < backoff_s(failures, cap_s=300.0, jitter=jitter) <= 300.0


def test_the_first_failure_waits_the_base() -> None:
    assert backoff_s(1, base_s=0.2, jitter=1.0) == pytest.approx(0.2)
