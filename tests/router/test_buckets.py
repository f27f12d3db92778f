"""Token buckets: what passes, for how long the rest has to wait, and when somebody is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.router.buckets import (
    PAUSE_S,
    WINDOW_S,
    Allowance,
    Bucket,
    InstanceDenials,
    Limit,
    LineDenials,
    Quotas,
    show_policy,
)

SLOW = Limit(messages_per_s=0.1, bytes_per_s=10.0)
FAST = Limit(messages_per_s=10.0, bytes_per_s=1000.0)


def limits(own: Limit = SLOW, hub: Limit = FAST, **by_type: Limit) -> Quotas:
    return Quotas(own=own, hub=hub, by_type={name.replace("_", "."): limit for name, limit in by_type.items()})


def take_all(bucket: Bucket, now: float, size_bytes: int = 1) -> int:
    taken = 0
    while bucket.take(now, size_bytes) == 0:
        taken += 1
    return taken


# --- one bucket -------------------------------------------------------------------------------------------------------


def test_a_full_bucket_holds_a_minutes_worth_and_then_fills_steadily() -> None:
    bucket = Bucket(SLOW, 0.0)
    assert take_all(bucket, 0.0) == 6
    assert bucket.take(0.0, 1) == 10.0
    assert take_all(bucket, 9.99) == 0
    assert take_all(bucket, 10.0) == 1
    assert take_all(bucket, 10_000.0) == 6


def test_bytes_are_counted_like_messages() -> None:
    bucket = Bucket(Limit(messages_per_s=100.0, bytes_per_s=10.0), 0.0)
    assert bucket.take(0.0, 500) == 0
    assert bucket.take(0.0, 500) == 40.0
    assert bucket.left(0.0) == (5999, 100)
    assert bucket.take(40.0, 500) == 0


def test_what_is_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_off_afterwards() -> None:
    bucket = Bucket(Limit(messages_per_s=100.0, bytes_per_s=10.0), 0.0)
    assert bucket.take(0.0, 1500) == 0
    assert bucket.left(0.0) == (5999, 0)
    assert bucket.take(0.0, 1) == 90.1
    assert bucket.take(0.0, 1500) == 150.0
    assert bucket.take(150.0, 1500) == 0


def test_a_rate_of_less_than_one_a_minute_lets_one_through_at_a_time() -> None:
    bucket = Bucket(Limit(messages_per_s=1 / 3600, bytes_per_s=10.0), 0.0)
    assert take_all(bucket, 0.0) == 1
    assert bucket.take(0.0, 1) == pytest.approx(3600)


@pytest.mark.parametrize("limit", [Limit(messages_per_s=0), Limit(bytes_per_s=0)])
def test_a_rate_of_nothing_lets_nothing_through(limit: Limit) -> None:
    assert Bucket(limit, 0.0).take(1e9, 1) == float("inf")


def test_another_limit_keeps_what_is_in_the_bucket_as_far_as_it_fits() -> None:
    bucket = Bucket(FAST, 0.0)
    bucket.change(SLOW, 0.0)
    assert bucket.left(0.0) == (6, 600)
    assert take_all(bucket, 0.0) == 6
    bucket.change(FAST, 0.0)
    assert bucket.left(0.0)[0] == 0
    assert take_all(bucket, 0.5) == 5


rates = st.floats(0.01, 1000)
limits_ = st.builds(Limit, messages_per_s=rates, bytes_per_s=st.floats(1, 1e6))
sends = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 200_000)), min_size=1, max_size=60)


@given(limits_, sends, st.floats(0, 1e7))
def test_no_more_passes_than_the_burst_and_the_rate_allow(
    limit: Limit, posts: list[tuple[float, int]], now: float
) -> None:
    bucket, start = Bucket(limit, now), now
    passed, size = 0, 0
    largest = max(s for _, s in posts)
    for pause_s, size_bytes in posts:
        now += pause_s
        if bucket.take(now, size_bytes) == 0:
            passed, size = passed + 1, size + size_bytes
    span = now - start + WINDOW_S
    assert passed <= max(1.0, limit.messages_per_s * WINDOW_S) + limit.messages_per_s * (now - start) + 1e-3
    assert size <= limit.bytes_per_s * span + largest + 1


@given(limits_, sends, st.floats(0, 1e7))
def test_the_wait_is_exact(limit: Limit, posts: list[tuple[float, int]], now: float) -> None:
    bucket = Bucket(limit, now)
    for pause_s, size_bytes in posts:
        now += pause_s
        could = bucket.can_take(now, size_bytes)
        wait_s = bucket.take(now, size_bytes)
        assert could == (wait_s == 0)
        if wait_s:
            assert not bucket.can_take(now + wait_s * 0.99 - 0.001, size_bytes)
            assert bucket.can_take(now + wait_s * 1.0001 + 0.001, size_bytes)


# --- all buckets of an instance ---------------------------------------------------------------------------------------


def test_over_the_quota_the_denial_says_how_much_is_allowed_and_when_to_come_back() -> None:
    quota = limits()
    allowance = Allowance(quota, 0.0)
    assert [allowance.charge(quota, 0.0, "review.note", 1) for _ in range(6)] == [None] * 6
    denied = allowance.charge(quota, 0.5, "review.note", 1)
    assert denied is not None
    assert (denied.code, denied.step, denied.retry_after_s) == ("rate_limited", "rate", 10)
    assert denied.reason == "more than 6 messages in 60 s or 600 bytes in 60 s"
    assert allowance.charge(quota, 10.5, "review.note", 1) is None


def test_what_the_hub_asks_for_is_not_paid_from_the_quota_and_not_without_bound() -> None:
    quota = limits(hub=Limit(messages_per_s=0.2, bytes_per_s=1000.0))
    allowance = Allowance(quota, 0.0)
    while allowance.charge(quota, 0.0, "review.note", 1) is None:
        pass
    assert allowance.admit(quota, 0.0, 1) is None
    assert [allowance.charge(quota, 0.0, "agent.heartbeat", 1) for _ in range(12)] == [None] * 12
    denied = allowance.charge(quota, 0.0, "task.completed", 1)
    assert denied is not None
    assert (denied.retry_after_s, denied.reason) == (
        5,
        "more than 12 messages in 60 s or 60000 bytes in 60 s (what goes to the hub)",
    )


def test_a_message_is_refused_unparsed_only_when_no_bucket_could_pay_for_it() -> None:
    quota = limits(hub=SLOW)
    allowance = Allowance(quota, 0.0)
    for type_ in ("review.note", "agent.heartbeat"):
        assert allowance.admit(quota, 0.0, 1) is None
        while allowance.charge(quota, 0.0, type_, 1) is None:
            pass
    denied = allowance.admit(quota, 0.0, 1)
    assert denied is not None
    assert (denied.code, denied.retry_after_s) == ("rate_limited", 10)
    assert allowance.admit(quota, 10.0, 1) is None


def test_a_type_with_a_limit_of_its_own_is_held_to_both() -> None:
    quota = limits(own=Limit(messages_per_s=0.05, bytes_per_s=1000.0), review_note=Limit(messages_per_s=1 / 30))
    allowance = Allowance(quota, 0.0)
    assert [allowance.charge(quota, 0.0, "review.note", 1) for _ in range(2)] == [None] * 2
    denied = allowance.charge(quota, 0.0, "review.note", 1)
    assert denied is not None
    assert (denied.retry_after_s, denied.reason) == (
        30,
        "more than 2 messages in 60 s or 62914560 bytes in 60 s (review.note)",
    )
    assert allowance.charge(quota, 0.0, "review.request", 1) is None
    assert allowance.charge(quota, 0.0, "review.request", 1) is not None


def test_another_configuration_holds_from_the_next_message_on() -> None:
    before, after = limits(review_note=SLOW), limits(own=FAST, review_note=FAST, docs_published=SLOW)
    allowance = Allowance(before, 0.0)
    while allowance.charge(before, 0.0, "review.note", 1) is None:
        pass
    assert [denied.retry_after_s for denied in [allowance.charge(before, 0.1, "review.note", 1)] if denied] == [10]
    assert [denied.retry_after_s for denied in [allowance.charge(after, 0.1, "review.note", 1)] if denied] == [1]
    assert allowance.charge(after, 0.3, "review.note", 1) is None
    assert allowance.charge(after, 0.3, "docs.published", 1) is None
    assert allowance.charge(limits(own=SLOW), 0.3, "review.note", 1) is not None


def test_a_quota_of_nothing_names_no_time_to_come_back() -> None:
    nothing = limits(own=Limit(messages_per_s=0))
    denied = Allowance(nothing, 0.0).charge(nothing, 0.0, "review.note", 1)
    assert denied is not None
    assert denied.retry_after_s is None


# --- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "shown"),
    [
        (Limit(), '"messages";q=600;w=60,"bytes";q=62914560;qu="content-bytes";w=60'),
        (Limit(messages_per_s=1.5), '"messages";q=90;w=60,"bytes";q=62914560;qu="content-bytes";w=60'),
        (
            Limit(messages_per_s=90 / 3600, bytes_per_s=1 / 3600),
            '"messages";q=90;w=3600,"bytes";q=1;qu="content-bytes";w=3600',
        ),
        (Limit(messages_per_s=0, bytes_per_s=0), '"messages";q=0;w=60,"bytes";q=0;qu="content-bytes";w=60'),
    ],
)
def test_the_policy_field_says_the_rate_in_whole_numbers(limit: Limit, shown: str) -> None:
    assert show_policy(limit) == shown


def test_the_limit_field_promises_no_more_than_the_rate() -> None:
    quota = limits(own=Limit(messages_per_s=1.0, bytes_per_s=100.0))
    allowance = Allowance(quota, 0.0)
    assert allowance.show_left(0.0) == '"messages";r=60;t=60,"bytes";r=6000;t=60'
    for _ in range(60):
        assert allowance.charge(quota, 0.0, "review.note", 90) is None
    assert allowance.show_left(0.0) == '"messages";r=0;t=1,"bytes";r=600;t=6'
    assert allowance.left(2.0) == {"messages": 2, "bytes": 800}


# --- who goes on ------------------------------------------------------------------------------------------------------


def test_a_connection_that_goes_on_after_three_denials_in_ten_seconds_is_not_read_for_a_second() -> None:
    denials = LineDenials()
    assert [denials.note(now) for now in (0.0, 9.0, 10.0)] == [0.0, 0.0, PAUSE_S]
    assert [denials.note(now) for now in (11.0, 30.0, 31.0)] == [PAUSE_S, 0.0, 0.0]
    assert denials.note(32.0) == PAUSE_S


def test_thirty_denials_in_a_minute_are_told_once_until_a_minute_was_quiet() -> None:
    denials = InstanceDenials()
    assert [denials.note(n) for n in range(29)] == [False] * 29
    assert denials.note(29.0)
    assert not any(denials.note(29.0 + n) for n in range(200))
    assert not denials.note(288.0)
    assert not any(denials.note(348.0 + n / 10) for n in range(29))
    assert denials.note(351.0)


def test_denials_that_are_further_apart_are_no_flood() -> None:
    denials = InstanceDenials()
    assert not any(denials.note(n * 3.0) for n in range(200))
