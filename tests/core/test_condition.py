"""The mode that follows from conditions."""

from datetime import UTC, datetime

import pytest

from reconciler.core.condition import DEGRADING, Condition, Mode, derive_mode


def condition(type_: str, *, subject: str = "hub", status: bool = True) -> Condition:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    return Condition(subject=subject, type=type_, status=status, reason="R", message="m", since=since)


@pytest.mark.parametrize("type_", sorted(DEGRADING))
def test_a_degrading_condition_of_the_hub_makes_it_degraded(type_: str) -> None:
    assert derive_mode([condition("PolicyFallback"), condition(type_)]) is Mode.DEGRADED


@pytest.mark.parametrize("type_", ["PolicyFallback", "SourceUnavailable", "ConfigInvalid", "SandboxNotEnforced"])
def test_other_conditions_leave_it_normal(type_: str) -> None:
    assert derive_mode([condition(type_)]) is Mode.NORMAL


def test_a_condition_that_is_over_or_of_another_subject_does_not_count() -> None:
    over = condition("RuntimeUnavailable", status=False)
    other = condition("RuntimeUnavailable", subject="agent/writer-0")
    assert derive_mode([over, other]) is Mode.NORMAL
    assert derive_mode([]) is Mode.NORMAL


def test_json_of_a_condition() -> None:
    assert condition("RouterDown").to_json() == {
        "subject": "hub",
        "type": "RouterDown",
        "status": True,
        "reason": "R",
        "message": "m",
        "since": "2026-01-01T00:00:00+00:00",
        "observedRevision": "",
        "inputDigest": "",
    }
