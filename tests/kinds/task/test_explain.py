"""One sentence for each state of a task: why it does not run, or what it does."""

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.condition import Mode
from reconciler.kinds.task.explain import explain_in_line, explain_schedule, explain_task, explain_without_hub
from reconciler.kinds.task.state import FINAL, TaskState
from reconciler.store.records import TaskRecord, UnitRecord
from tests.fakes.fleet import agent_view
from tests.kinds.task.build import BOOT_S, instance_of, plan_run, plan_tasks, run_of, task_of, writer

TASK = task_of()
SUBJECT = "task changelog (run run-changelog)"


def why(run: TaskRecord, unit: UnitRecord | None = None, mode: Mode = Mode.NORMAL, **facts: Any) -> str:
    """Of what is really planned for the run."""
    return explain_task(run, plan_run(run, TASK, **facts), unit, mode)


@pytest.mark.parametrize(
    ("run", "facts", "said"),
    [
        (run_of(TASK), {}, "is not running, it is pending: asking policy about writer."),
        (
            run_of(TASK, TaskState.AUTHORISED),
            {"agents": [writer(instance_of(ready=False, reason="it is handshaking"))]},
            "is not running, it is authorised: writer-0 is not ready: it is handshaking.",
        ),
        (
            run_of(TASK, TaskState.AUTHORISED),
            {"agents": [agent_view(instances=())]},
            "is not running, it is authorised: writer has no instances (replicas: 0).",
        ),
        (
            run_of(TASK, TaskState.AUTHORISED),
            {"agents": [agent_view(instances=(), replicas=2)]},
            "is not running, it is authorised: an instance of writer is made for it.",
        ),
        (
            run_of(TASK, TaskState.AUTHORISED),
            {"agents": [agent_view(instances=(instance_of(ready=False, reason="it has its one task"),), replicas=1)]},
            "is not running, it is authorised: writer-0 is not ready: it has its one task.",
        ),
        (
            run_of(TASK, TaskState.AUTHORISED, attempts=1, reason="failed on writer-0: no", not_before_boot=BOOT_S + 2),
            {},
            "is not running, it is authorised: next attempt in 2s: failed on writer-0: no.",
        ),
        (run_of(TASK, TaskState.ASSIGNED), {}, "is not running, it is assigned: assigned on writer-0."),
        (run_of(TASK, TaskState.RUNNING, progress="half"), {}, "is running: running on writer-0: half."),
        (
            run_of(TASK),
            {"is_fleet_known": False},
            "is not running, it is pending: pending; the agents cannot be read now.",
        ),
    ],
)
def test_a_task_that_is_not_over_says_what_it_waits_for(run: TaskRecord, facts: Any, said: str) -> None:
    assert why(run, **facts) == f"{SUBJECT} {said}"


def test_a_result_that_is_checked_says_by_what() -> None:
    checked = task_of(acceptance=[{"regex": "a"}])
    run = run_of(checked, TaskState.CHECKING)
    assert explain_task(run, plan_run(run, checked)) == f"{SUBJECT} is not running, it is checking: regex a."


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (TaskState.SUCCEEDED, "it succeeded on writer-0"),
        (TaskState.FAILED, "it failed: it broke"),
        (TaskState.TIMED_OUT, "it timed out: it broke"),
        (TaskState.CANCELLED, "it was cancelled: it broke"),
        (TaskState.REJECTED, "it was rejected: it broke"),
    ],
)
def test_a_task_that_is_over_says_how_it_ended(state: TaskState, said: str) -> None:
    run = run_of(TASK, state, instance="writer-0", reason="it broke")
    assert why(run) == explain_without_hub(run) == f"{SUBJECT} is over: {said}."


def test_every_state_has_its_sentence() -> None:
    for state in TaskState:
        run = run_of(TASK, state)
        for sentence in (why(run), explain_task(run, None), explain_without_hub(run)):
            assert sentence.startswith(SUBJECT)
            assert sentence.endswith(".")
            assert str(state).replace("_", " ") in sentence or state in FINAL


def test_what_keeps_the_hub_from_doing_it_comes_first() -> None:
    run = run_of(TASK, TaskState.AUTHORISED)
    unit = UnitRecord(
        unit="task/changelog",
        input_digest="",
        failures=4,
        same_failures=4,
        not_before_boot=BOOT_S + 9,
        boot_id="boot-1",
        reason="the workspace cannot be made",
    )
    assert why(run, mode=Mode.DEGRADED).endswith("the hub is degraded and dispatches nothing new (to writer-0).")
    assert why(run, unit).endswith("it failed 4 times and is tried again soon: the workspace cannot be made.")
    stalled = replace(unit, stalled=True)
    assert "stalled after 4 identical failures, until another revision: the workspace" in why(run, stalled)


def test_without_a_hub_it_says_so() -> None:
    run = run_of(TASK, TaskState.AUTHORISED, reason="failed on writer-0: no")
    said = "is authorised: failed on writer-0: no, and no hub runs to go on with it."
    assert explain_without_hub(run) == f"{SUBJECT} {said}"


def test_a_schedule_says_when_it_is_due_and_what_became_of_the_last_run() -> None:
    manifest = task_of("report", schedule={"cron": "0 6 * * 1"})
    (change,) = plan_tasks([manifest])
    assert explain_schedule("report", change, None) == (
        "task report runs by its schedule: new in git; due next at 2026-01-05 06:00 UTC; it has not run yet."
    )
    last = run_of(task_of("report-20260105-0600"), TaskState.TIMED_OUT)
    assert explain_schedule("report", change, last).endswith("; its last run, report-20260105-0600, is timed out.")


@pytest.mark.parametrize(
    ("waits_for", "wait_s", "state", "said"),
    [
        (["report", "other"], 9.0, TaskState.AUTHORISED, "authorised: waiting for report."),
        ([], 9.04, TaskState.AUTHORISED, "authorised: next attempt in 9s: failed: no."),
        ([], 0.0, TaskState.PENDING, "pending: policy is asked about 7 others first."),
        (
            [],
            -1.0,
            TaskState.AUTHORISED,
            "authorised: 7 others come first for writer, and of the first of them, first, the plan says: "
            "all instances of writer are busy.",
        ),
    ],
)
def test_what_stands_behind_others_says_what_it_waits_for(
    waits_for: list[str], wait_s: float, state: TaskState, said: str
) -> None:
    busy = run_of(task_of("busy"), TaskState.RUNNING, priority=9)
    head = run_of(task_of("first"), TaskState.AUTHORISED, source="api")
    (change,) = [c for c in plan_tasks([task_of("busy")], busy, head) if c.name == "first"]
    run = run_of(TASK, state, reason="failed: no", agent="writer")
    shown = explain_in_line(run, change, ahead=7, waits_for=waits_for, wait_s=wait_s)
    assert shown == f"{SUBJECT} is not running, it is {said}"
