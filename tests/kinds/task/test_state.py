"""How far a run is, by its attempts, that is recorded as over."""

from dataclasses import replace

import pytest

from reconciler.kinds.task.state import FINAL, TaskState, how_far
from reconciler.store.records import AttemptRecord
from tests.kinds.task.build import run_of, task_of

OVER = run_of(task_of(), TaskState.SUCCEEDED, generation=2)
ATTEMPT = AttemptRecord(run=OVER.run, generation=2, instance="writer-0", assigned_at="t1")
CLOSED = replace(ATTEMPT, ended_at="t2", outcome="succeeded")
OLDER = replace(ATTEMPT, generation=1)


@pytest.mark.parametrize("state", sorted(FINAL))
def test_an_open_attempt_says_that_the_run_goes_on(state: TaskState) -> None:
    for finished_at in ("", "t3"):
        run = replace(OVER, state=state, finished_at=finished_at)
        assert how_far(run, [OLDER, ATTEMPT]) is TaskState.ASSIGNED
        assert how_far(run, [replace(ATTEMPT, started_at="t1")]) is TaskState.RUNNING


def test_without_the_time_of_its_end_a_run_is_where_its_last_attempt_left_it() -> None:
    assert how_far(OVER, []) is TaskState.PENDING
    assert how_far(OVER, [replace(CLOSED, outcome="failed")]) is TaskState.PENDING
    assert how_far(OVER, [replace(CLOSED, outcome="checking")]) is TaskState.CHECKING


def test_a_real_end_stays() -> None:
    ended = replace(OVER, finished_at="t3")
    for attempts in ([], [CLOSED], [OLDER, CLOSED], [replace(CLOSED, outcome="checking")]):
        assert how_far(ended, attempts) is None
    assert how_far(run_of(task_of(), TaskState.RUNNING), [ATTEMPT]) is None
