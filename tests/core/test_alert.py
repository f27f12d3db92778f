"""What is told of conditions: each beginning and each end once, some only after a while, some never."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.core.alert import settle, tell_mode
from reconciler.core.condition import RULES, Condition, Mode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW_S = 600.0


def condition(type_: str = "RuntimeUnavailable", **more: Any) -> Condition:
    values = {"subject": "hub", "status": True, "reason": "R", "message": "m", "since": NOW, **more}
    return Condition(type=type_, **values)


def told(*conditions: Condition, after_s: float = 0.0) -> list[tuple[str, str]]:
    _, notices = settle(conditions, "f", WINDOW_S, NOW + timedelta(seconds=after_s))
    return [(n.status, n.type) for n in notices]


def test_a_beginning_and_an_end_are_told_once_each() -> None:
    first = condition()
    (marked,), (raised,) = settle([first], "f", WINDOW_S, NOW)
    assert (raised.status, raised.type, raised.subject, raised.message) == ("raised", first.type, "hub", "m")
    assert settle([marked], "f", WINDOW_S, NOW) == ([], [])
    over = condition(status=False, alerted=True, message="")
    (ended,), (cleared,) = settle([over], "f", WINDOW_S, NOW)
    assert (cleared.status, cleared.message) == ("cleared", "it is over")
    assert settle([ended], "f", WINDOW_S, NOW) == ([], [])


@pytest.mark.parametrize(
    ("type_", "not_yet_s", "then_s"),
    [
        ("RouterDown", 9.9, 10.0),
        ("SourceUnavailable", WINDOW_S - 1, WINDOW_S),
        ("SourceUnsettled", WINDOW_S - 1, WINDOW_S),
        ("ConfigInvalid", WINDOW_S - 1, WINDOW_S),
    ],
)
def test_what_may_pass_by_itself_is_told_only_after_a_while(type_: str, not_yet_s: float, then_s: float) -> None:
    assert told(condition(type_), after_s=not_yet_s) == []
    assert told(condition(type_), after_s=then_s) == [("raised", type_)]


@pytest.mark.parametrize("type_", ["StoreUnwritable", "LogUnwritable", "RuntimeUnavailable", "PolicyFallback", "Other"])
def test_all_else_is_told_at_once(type_: str) -> None:
    assert told(condition(type_)) == [("raised", type_)]


def test_what_is_only_shown_is_never_told() -> None:
    assert told(condition("SandboxNotEnforced"), condition("Distrusted"), after_s=10**9) == []


def test_what_was_over_before_it_was_told_is_not_told_at_all() -> None:
    assert told(condition("RouterDown", status=False), after_s=60) == []


def test_a_clock_that_was_set_back_does_not_keep_an_alert_for_hours() -> None:
    assert told(condition("RouterDown"), after_s=-3600) == [("raised", "RouterDown")]
    assert told(condition("SandboxNotEnforced"), after_s=-3600) == []


def test_the_id_is_the_same_for_each_try_and_another_for_each_transition() -> None:
    (raised,) = settle([condition()], "f", WINDOW_S, NOW)[1]
    (again,) = settle([condition()], "f", WINDOW_S, NOW)[1]
    (later,) = settle([condition()], "f", WINDOW_S, NOW + timedelta(hours=1))[1]
    assert raised.id == again.id != later.id


def test_a_change_of_mode_says_why() -> None:
    conditions = [condition("RouterDown"), condition("LogUnwritable", status=False), condition("PolicyFallback")]
    notice = tell_mode(Mode.DEGRADED, conditions, "f", NOW)
    assert (notice.status, notice.type, notice.message) == ("raised", "ModeChanged", "the hub is degraded: RouterDown")
    back = tell_mode(Mode.NORMAL, [], "f", NOW)
    assert (back.status, back.message) == ("cleared", "the hub is normal")


def test_the_table_of_the_contracts_is_the_one_in_force() -> None:
    assert {type_ for type_, rule in RULES.items() if rule.degrades} == {
        "StoreUnwritable",
        "LogUnwritable",
        "RuntimeUnavailable",
        "RouterDown",
    }
