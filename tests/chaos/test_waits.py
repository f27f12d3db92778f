"""What is made of the times that messages took while OPA hung."""

import pytest

from tests.chaos.faults import Waits

QUICK, WAITED = 0.003, 0.11


@pytest.mark.parametrize(
    ("before", "waited", "is_wrong"),
    [
        (QUICK, 5, False),
        (QUICK, 20, True),
        (0.04, 20, False),
        (0.04, 600, True),
    ],
    ids=["the first few wait", "more than one in a hundred waits", "a busy machine", "a busy machine, and most wait"],
)
def test_one_in_a_hundred_may_wait_where_the_machine_is_not_too_busy_to_tell(
    before: float, waited: int, is_wrong: bool
) -> None:
    waits = Waits(before_s=[before] * 200, during_s=[WAITED] * waited + [before] * (1000 - waited))
    assert bool(waits.faults()) is is_wrong


def test_without_a_message_there_is_nothing_to_say() -> None:
    assert Waits().faults() == []
