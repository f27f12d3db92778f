"""What becomes of a run that an agent has: leases, epochs, time limits, and cancelling."""

from dataclasses import replace

import pytest

from reconciler.core.change import Action, Cause, Change
from reconciler.kinds.kind import LOOK_S
from reconciler.kinds.task.plan import TIMEOUT_SLACK_S, retry_wait_s
from reconciler.kinds.task.state import CANCEL_REQUESTED, TaskState
from reconciler.settings import Retry
from reconciler.store.records import TaskRecord
from tests.kinds.task.build import BOOT_S, instance_of, plan_run, plan_tasks, router, run_of, task_of, writer

TASK = task_of()
PENDING = run_of(TASK)
AUTHORISED = run_of(TASK, TaskState.AUTHORISED)
ASSIGNED = run_of(TASK, TaskState.ASSIGNED)
RUNNING = run_of(TASK, TaskState.RUNNING)


def said(change: Change) -> tuple[Action, str]:
    return change.action, change.reason


# --- watching ---------------------------------------------------------------------------------------------------------


def test_a_run_on_its_way_is_waited_for_with_its_progress() -> None:
    assert said(plan_run(ASSIGNED, TASK)) == (Action.HOLD, "assigned on writer-0")
    assert said(plan_run(replace(RUNNING, progress="half"), TASK)) == (Action.HOLD, "running on writer-0: half")


def test_an_agent_that_does_not_call_for_a_lease_loses_its_runs() -> None:
    def silent(seconds: float, run: TaskRecord = RUNNING) -> Change:
        old = replace(run, assigned_boot=BOOT_S - 500)
        return plan_run(old, TASK, router=router(last_seen=BOOT_S - seconds))

    assert silent(30).action is Action.HOLD
    change = silent(31)
    assert said(change) == (Action.RETRY, "writer-0 has not called for 31s (lease 30s)")
    assert change.cause is Cause.CRASH
    assert silent(31, ASSIGNED).action is Action.RETRY


def test_the_lease_begins_anew_with_each_assignment_and_each_start_of_the_router() -> None:
    fresh = replace(RUNNING, assigned_boot=BOOT_S - 29)
    assert plan_run(fresh, TASK, router=router(last_seen=0.0)).action is Action.HOLD
    old = replace(RUNNING, assigned_boot=BOOT_S - 500)
    assert plan_run(old, TASK, router=router(last_seen=0.0, uptime_s=29.0)).action is Action.HOLD
    assert plan_run(old, TASK, router=router(last_seen=0.0, uptime_s=31.0)).action is Action.RETRY


def test_no_lease_ends_before_the_router_was_seen_to_answer_for_all_of_it() -> None:
    old = replace(RUNNING, assigned_boot=BOOT_S - 500)
    for run, state in ((old, "running"), (replace(old, state=TaskState.ASSIGNED), "assigned")):
        change = plan_run(run, TASK, router=router(last_seen=BOOT_S - 99), listening_s=30.0)
        assert said(change) == (Action.HOLD, f"{state} on writer-0, which has not called for 99s")
        assert change.wait_s == LOOK_S
        assert plan_run(run, TASK, router=router(last_seen=BOOT_S - 99), listening_s=30.1).action is Action.RETRY
    asked = replace(old, reason=f"{CANCEL_REQUESTED}: x")
    assert plan_run(asked, router=router(last_seen=BOOT_S - 99), listening_s=30.0).action is Action.HOLD
    other = plan_run(replace(old, state=TaskState.ASSIGNED), TASK, router=router(0.0, epoch="epoch-2"), listening_s=0.0)
    assert other.action is Action.DISPATCH


def test_while_the_router_is_away_no_lease_ends() -> None:
    assert plan_run(replace(RUNNING, assigned_boot=BOOT_S - 500), TASK, router=None).action is Action.HOLD


def test_an_instance_that_leaves_the_fleet_keeps_its_run_as_long_as_it_calls() -> None:
    old = replace(RUNNING, assigned_boot=BOOT_S - 500)
    for agents in ([], [writer(instance_of("writer-1"))]):
        assert said(plan_run(old, TASK, agents=agents)) == (Action.HOLD, "running on writer-0")
        lost = plan_run(old, TASK, agents=agents, router=router(last_seen=BOOT_S - 31))
        assert lost.action is Action.RETRY


def test_after_a_reboot_of_the_machine_every_run_is_tried_again() -> None:
    for run in (ASSIGNED, RUNNING):
        change = plan_run(run, TASK, boot_id="boot-2", boottime=5.0)
        assert said(change) == (Action.RETRY, "the machine was started again")


def test_a_run_that_takes_too_long_is_ended() -> None:
    manifest = task_of(timeout="1m")

    def after(seconds: float) -> Change:
        return plan_run(run_of(manifest, TaskState.RUNNING, assigned_boot=BOOT_S - seconds), manifest)

    assert after(60 + TIMEOUT_SLACK_S).action is Action.HOLD
    assert said(after(61 + TIMEOUT_SLACK_S)) == (
        Action.TIME_OUT,
        "timed out after 1m, and its agent did not stop it",
    )


def test_a_run_that_is_never_begun_is_ended_too() -> None:
    def after(seconds: float) -> Change:
        return plan_run(replace(ASSIGNED, assigned_boot=BOOT_S - seconds), TASK)

    assert after(600).action is Action.HOLD
    assert said(after(611)) == (Action.TIME_OUT, "timed out: writer-0 did not begin it within 10m")


def test_an_assignment_is_sent_again_to_a_new_router_with_the_same_generation() -> None:
    change = plan_run(ASSIGNED, TASK, router=router(epoch="epoch-2"))
    assert said(change) == (Action.DISPATCH, "sent again to writer-0 (generation 1)")
    assert (change.spec.run.generation, change.spec.instance.name) == (1, "writer-0")


def test_what_is_running_is_not_sent_again() -> None:
    assert plan_run(RUNNING, TASK, router=router(epoch="epoch-2")).action is Action.HOLD


def test_nothing_is_sent_again_to_an_instance_that_leaves_the_fleet() -> None:
    change = plan_run(ASSIGNED, TASK, router=router(epoch="epoch-2"), agents=[])
    assert said(change) == (Action.HOLD, "assigned on writer-0, which leaves the fleet")


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [PENDING, AUTHORISED, ASSIGNED, RUNNING], ids=lambda r: str(r.state))
def test_a_run_whose_manifest_went_is_cancelled(run: TaskRecord) -> None:
    assert said(plan_run(run)) == (Action.CANCEL, "its manifest was removed from git")


@pytest.mark.parametrize("run", [PENDING, AUTHORISED, ASSIGNED, RUNNING], ids=lambda r: str(r.state))
def test_a_run_whose_manifest_changed_is_cancelled_while_the_new_one_begins(run: TaskRecord) -> None:
    changes = plan_tasks([task_of(prompt="new")], run)
    assert [said(c) for c in changes] == [
        (Action.CREATE, "new in git"),
        (Action.CANCEL, "its manifest was changed in git"),
    ]


def test_only_taking_work_away_that_is_under_way_counts_as_a_removal() -> None:
    assert [plan_run(r).towards for r in (PENDING, AUTHORISED)] == [None, None]
    assert [plan_run(r).towards for r in (ASSIGNED, RUNNING)] == [Action.REMOVE, Action.REMOVE]
    replaced = plan_tasks([task_of(prompt="new")], RUNNING)[1]
    assert replaced.towards is None


@pytest.mark.parametrize("source", ["inbox", "api"])
def test_a_run_that_did_not_come_from_git_does_not_end_with_git(source: str) -> None:
    assert plan_run(replace(RUNNING, source=source)).action is Action.HOLD


def test_a_cancelled_run_is_waited_for_until_its_agent_stopped_it() -> None:
    asked = replace(RUNNING, reason=f"{CANCEL_REQUESTED}: its manifest was removed from git")
    for manifest in (None, TASK):
        change = plan_run(asked, manifest)
        assert (*said(change), change.wait_s) == (Action.HOLD, "waiting for its agent to stop it", 1.0)


def test_a_new_router_is_asked_to_cancel_again() -> None:
    asked = replace(RUNNING, reason=f"{CANCEL_REQUESTED}: by uid:0")
    assert plan_run(asked, TASK, router=router(epoch="epoch-2")).action is Action.CANCEL


def test_a_cancelled_run_whose_agent_is_lost_or_does_not_stop_is_ended_with_it() -> None:
    asked = replace(RUNNING, reason=f"{CANCEL_REQUESTED}: x", assigned_boot=BOOT_S - 500)
    assert plan_run(asked, router=router(last_seen=BOOT_S - 31)).action is Action.RETRY
    overdue = replace(asked, assigned_boot=BOOT_S - 611)
    assert plan_run(overdue).action is Action.TIME_OUT


def test_the_order_of_manifests_does_not_matter() -> None:
    tasks = [task_of(n, priority=p) for n, p in (("a", 0), ("b", 3), ("c", 0))]
    runs = [run_of(t, TaskState.AUTHORISED, run=t.name) for t in tasks]
    assert plan_tasks(tasks, *runs) == plan_tasks(list(reversed(tasks)), *runs)


def test_the_wait_between_attempts_follows_the_strategy() -> None:
    def retry(**values: object) -> Retry:
        return Retry.model_validate({"baseDelay": "1s", **values})

    assert [retry_wait_s(retry(strategy="fixed"), "r", n) for n in (1, 5)] == [1.0, 1.0]
    assert [retry_wait_s(retry(jitter=False), "r", n) for n in (1, 2, 3, 50)] == [1.0, 2.0, 4.0, 600.0]
    assert all(e / 2 <= retry_wait_s(retry(), "r", n) < e for n, e in ((1, 1.0), (2, 2.0), (50, 600.0)))


def test_runs_that_fail_together_are_not_tried_again_together() -> None:
    waits = {retry_wait_s(Retry(), f"run-{n}", 1) for n in range(100)}
    assert len(waits) > 50
    assert {retry_wait_s(Retry(), "run-1", 1) for _ in range(3)} < waits
