"""The score of an agent: what moves it, how far, and how it goes back to neutral."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.core.trust import Move, Standing, TrustCause, TrustRules, move, new_events, score_at

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RULES = TrustRules()
LOW = TrustRules.model_validate({"neutral": 0.8, "halfLife": "1h"})
TRUSTED = Standing(score=1.0, at=NOW)


def test_an_event_moves_the_score_by_its_step_and_says_so() -> None:
    after, moves = move(TRUSTED, {TrustCause.FORGED: 1}, RULES, NOW)
    assert moves == (Move(cause=TrustCause.FORGED, events=1, before=1.0, after=0.8),)
    assert after == Standing(score=0.8, at=NOW, reason="messages in another's name (1): trust from 1.00 to 0.80")


def test_of_many_events_in_one_window_only_some_count_and_they_are_one_change() -> None:
    after, moves = move(TRUSTED, {TrustCause.DENIED: 10_000}, RULES, NOW)
    assert [m.events for m in moves] == [10_000]
    assert after.score == pytest.approx(0.9)


def test_what_changes_nothing_is_no_change() -> None:
    assert move(TRUSTED, {TrustCause.SUCCESS: 3}, RULES, NOW) == (TRUSTED, ())


def test_each_cause_is_a_change_of_its_own() -> None:
    _, moves = move(TRUSTED, {TrustCause.DENIED: 1, TrustCause.CRASH: 1, TrustCause.SUCCESS: 1}, RULES, NOW)
    assert [(m.cause, round(m.after, 2)) for m in moves] == [("denied", 0.98), ("crash", 0.93), ("success", 0.94)]


@pytest.mark.parametrize(("score", "after_1h"), [(0.4, 0.6), (1.0, 0.9), (0.8, 0.8)])
def test_a_score_goes_half_of_the_way_to_neutral_in_its_half_life(score: float, after_1h: float) -> None:
    standing = Standing(score=score, at=NOW)
    assert score_at(standing, LOW, NOW + timedelta(hours=1)) == pytest.approx(after_1h)


def test_a_clock_that_was_set_back_changes_nothing() -> None:
    assert score_at(Standing(score=0.2, at=NOW), LOW, NOW - timedelta(hours=5)) == pytest.approx(0.2)


def test_only_what_a_router_tells_anew_is_counted_and_all_of_it_after_its_restart() -> None:
    standing = Standing(score=1.0, at=NOW, epoch="a", counted={"denied": 3, "flood": 1})
    assert new_events(standing, "a", {"denied": 5, "flood": 1}) == {TrustCause.DENIED: 2}
    assert new_events(standing, "b", {"denied": 2}) == {TrustCause.DENIED: 2}


@given(
    st.lists(st.dictionaries(st.sampled_from(list(TrustCause)), st.integers(0, 10**6))),
    st.floats(0, 1),
    st.floats(0, 10**7),
)
def test_a_score_never_leaves_its_bounds(history: list[dict[TrustCause, int]], neutral: float, pause_s: float) -> None:
    rules = RULES.model_copy(update={"neutral": neutral})
    standing, now = Standing(score=neutral, at=NOW), NOW
    for events in history:
        standing, moves = move(standing, events, rules, now)
        assert all(0.0 <= m.before <= 1.0 and 0.0 <= m.after <= 1.0 for m in moves)
        now += timedelta(seconds=pause_s)
    assert 0.0 <= score_at(standing, rules, now) <= 1.0


@pytest.mark.parametrize("wrong", [{"neutral": 2}, {"most": 0}, {"steps": {"rude": -1}}, {"steps": {"crash": -2}}])
def test_rules_out_of_bounds_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrustRules.model_validate(wrong)
