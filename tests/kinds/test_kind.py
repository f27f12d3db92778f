"""For how long an instance could have called: what counts as having listened to it all the time."""

from collections.abc import Sequence
from typing import Any

import pytest

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.kinds.kind import GAP_S, RouterWatch
from reconciler.ports import InstanceReport, RouterReport


def report(epoch: str = "epoch-1", instances: Sequence[str] = ("a-0",)) -> Reading[RouterReport]:
    values: dict[str, Any] = {"pid": 1, "code_version": "1", "config_digest": "", "policy_revision": "", "inbox_seq": 0}
    return Ok(RouterReport(epoch=epoch, instances={n: InstanceReport(instance=n) for n in instances}, **values))


def listening(*looks: tuple[Reading[RouterReport], float], instance: str = "a-0") -> list[float]:
    """For how long the router was seen to listen to one instance, at each of these looks."""
    watch = RouterWatch()
    return [watch.look(*look).seconds(instance) for look in looks]


def test_a_router_that_answers_each_time_has_listened_since_the_first() -> None:
    assert listening((report(), 100.0), (report(), 101.0), (report(), 101.0 + GAP_S)) == [0.0, 1.0, 1.0 + GAP_S]


@pytest.mark.parametrize("silence", [Absent(), Unavailable(reason="no answer")])
def test_one_that_did_not_answer_once_begins_anew(silence: Reading[RouterReport]) -> None:
    looks = [(report(), 100.0), (report(), 104.0), (silence, 106.0), (report(), 108.0), (report(), 110.0)]
    assert listening(*looks) == [0.0, 4.0, 0.0, 0.0, 2.0]


def test_another_epoch_is_another_router() -> None:
    assert listening((report(), 100.0), (report("epoch-2"), 101.0), (report("epoch-2"), 102.0)) == [0.0, 0.0, 1.0]


def test_what_was_while_nobody_looked_is_unknown() -> None:
    looks = [(report(), at) for at in (100.0, 104.0, 104.5 + GAP_S, 110.0)]
    assert listening(*looks) == [0.0, 4.0, 0.0, 0.5]


def test_a_clock_that_began_anew_begins_anew() -> None:
    assert listening(*((report(), at) for at in (100.0, 104.0, 3.0, 4.0))) == [0.0, 4.0, 0.0, 1.0]


def test_nobody_is_listened_to_before_the_router_knows_it() -> None:
    both = report(instances=("b-0", "a-0"))
    looks = [(report(instances=["b-0"]), 100.0), (both, 101.0), (both, 103.0), (report(instances=["b-0"]), 104.0)]
    assert listening(*looks) == [0.0, 0.0, 2.0, 0.0]
    assert listening(*looks, instance="b-0") == [0.0, 1.0, 3.0, 4.0]
    assert listening(*looks, (both, 105.0), (both, 106.0)) == [0.0, 0.0, 2.0, 0.0, 0.0, 1.0]
