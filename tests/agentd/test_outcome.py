from __future__ import annotations

import pytest

from reconciler.agentd.outcome import Usage, reason_of_status


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        *((status, "model_refused") for status in (400, 402, 403, 404, 413, 422)),
        *((status, "model_unavailable") for status in (401, 408, 409, 425, 429, 500, 502, 503, 504, 529)),
    ],
)
def test_a_status_says_whether_another_attempt_may_help(status: int, reason: str) -> None:
    assert reason_of_status(status) == reason


def test_what_nobody_said_is_not_told() -> None:
    assert Usage(input_tokens=3).to_json() == {
        "input_tokens": 3,
        "output_tokens": 0,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "turns": 1,
    }


def test_a_cost_of_nothing_is_told() -> None:
    assert Usage(model="m", cost_usd=0.0).to_json()["cost_usd"] == 0.0
