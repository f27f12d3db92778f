"""Which step each run takes next: states, dependencies, limits, leases, epochs and attempts."""

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import FINAL, TaskState
from reconciler.settings import HubSpec
from reconciler.store.records import TaskRecord
from tests.fakes.fleet import agent_view
from tests.kinds.task.build import BOOT_S, instance_of, plan_run, plan_tasks, run_of, task_of, writer

TASK = task_of()
PENDING = run_of(TASK)
AUTHORISED = run_of(TASK, TaskState.AUTHORISED)


def said(change: Change) -> tuple[Action, str]:
    return change.action, change.reason


# --- once per manifest ------------------------------------------------------------------------------------------------


def test_a_manifest_becomes_a_run_once() -> None:
    (change,) = plan_tasks([TASK])
    assert said(change) == (Action.CREATE, "new in git")
    assert (change.spec_digest, change.spec.manifest) == (TASK.digest, TASK)
    for state in TaskState:
        changes = plan_tasks([TASK], run_of(TASK, state))
        assert [c.action for c in changes].count(Action.CREATE) == 0


def test_an_edited_manifest_is_another_run_and_going_back_to_the_old_one_is_none() -> None:
    edited = task_of(prompt="another")
    first, second = run_of(TASK, TaskState.SUCCEEDED), run_of(edited, TaskState.SUCCEEDED, run="run-2")
    assert [said(c) for c in plan_tasks([edited], first)] == [(Action.CREATE, "new in git")]
    assert [said(c) for c in plan_tasks([TASK], first, second)] == [(Action.KEEP, "finished: succeeded")]


def test_a_run_of_the_inbox_does_not_count_as_that_of_a_manifest_in_git() -> None:
    dropped = run_of(TASK, TaskState.SUCCEEDED, source="inbox")
    assert [c.action for c in plan_tasks([TASK], dropped)] == [Action.CREATE, Action.KEEP]


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_finished_run_is_kept_while_its_manifest_is_there_and_passed_over_when_it_is_gone(state: TaskState) -> None:
    run = run_of(TASK, state)
    assert [said(c) for c in plan_tasks([TASK], run)] == [(Action.KEEP, f"finished: {state}")]
    assert plan_tasks([], run) == []
    (dropped,) = plan_tasks([], replace(run, source="inbox"))
    assert said(dropped) == (Action.KEEP, f"finished: {state}")


def test_a_run_that_ended_well_and_whose_result_is_gone_is_held_and_named() -> None:
    run = run_of(TASK, TaskState.SUCCEEDED)
    (change,) = plan_tasks([TASK], run, without_result=frozenset({run.run}))
    assert (change.action, change.cause, change.unit) == (Action.HOLD, Cause.DRIFT, "task/changelog")
    assert change.reason.startswith("recorded as succeeded, but no result of it was ever received")
    (other,) = plan_tasks([TASK], run, without_result=frozenset({"run-other"}))
    assert other.action is Action.KEEP


@pytest.mark.parametrize(("source", "cause"), [("git", Cause.COMMIT), ("inbox", Cause.INBOX), ("api", Cause.OPERATOR)])
def test_the_cause_is_where_the_task_came_from(source: str, cause: Cause) -> None:
    assert plan_run(replace(PENDING, source=source), TASK).cause is cause


# --- authorise --------------------------------------------------------------------------------------------------------


def test_a_pending_run_is_put_to_policy_with_the_agent_that_it_is_for() -> None:
    change = plan_run(PENDING, TASK)
    assert said(change) == (Action.AUTHORISE, "asking policy about writer")
    assert change.spec.agent.name == "writer"


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (task_of(agent="other"), "agent other is not in the fleet"),
        (task_of(agent=None, requires=["x"]), "no agent has x"),
        (task_of(sensitivity="restricted"), "restricted work may not reach writer, whose model is public"),
    ],
)
def test_without_an_agent_that_may_have_it_a_run_is_rejected_and_policy_is_not_asked(
    manifest: Manifest[TaskSpec], why: str
) -> None:
    change = plan_run(run_of(manifest), manifest, agents=[writer(exposure="public")])
    assert said(change) == (Action.COMPLETE, why)
    assert (change.spec.state, change.spec.reason) == (TaskState.REJECTED, why)


def test_a_run_that_any_of_several_agents_can_do_goes_to_the_one_with_the_least_to_do() -> None:
    manifest = task_of(agent=None, requires=["docs.write"])
    agents = [writer(), agent_view("editor", instances=(instance_of("editor-0"), instance_of("editor-1")))]

    def asked_about(*busy: str) -> str:
        waiting = [
            run_of(task_of(f"w{n}"), TaskState.AUTHORISED, run=f"w{n}", agent=agent, source="api")
            for n, agent in enumerate(busy)
        ]
        changes = plan_tasks([manifest], *waiting, run_of(manifest), agents=agents)
        return next(c.reason for c in changes if c.name == "changelog")

    assert asked_about("editor", "editor", "editor", "writer") == "asking policy about writer"
    assert asked_about("editor", "writer") == "asking policy about editor"


def test_several_new_runs_are_spread_over_the_agents_that_can_do_them() -> None:
    manifests = [task_of(f"t{n}", agent=None, requires=["docs.write"]) for n in range(4)]
    agents = [writer(), agent_view("editor", instances=(instance_of("editor-0"),))]
    changes = plan_tasks(manifests, *(run_of(m) for m in manifests), agents=agents)
    assert sorted(c.spec.agent.name for c in changes) == ["editor", "editor", "writer", "writer"]


def test_select_narrows_who_can_do_it() -> None:
    agents = [
        agent_view("a", role="writer", labels={"team": "x"}, instances=(instance_of("a-0"),)),
        agent_view("b", role="writer", labels={"team": "docs"}, instances=(instance_of("b-0"),)),
        agent_view("c", role="reader", labels={"team": "docs"}, instances=(instance_of("c-0"),)),
    ]
    manifest = task_of(agent=None, requires=["docs.write"], select={"role": "writer", "labels": {"team": "docs"}})
    assert plan_run(run_of(manifest), manifest, agents=agents).spec.agent.name == "b"


# --- dispatch ---------------------------------------------------------------------------------------------------------


def test_an_authorised_run_goes_to_a_ready_instance() -> None:
    change = plan_run(AUTHORISED, TASK)
    assert said(change) == (Action.DISPATCH, "to writer-0")
    assert change.spec.instance.name == "writer-0"


def test_a_run_goes_only_to_the_agent_that_policy_was_asked_about() -> None:
    manifest = task_of(agent=None, requires=["docs.write"])
    busy = run_of(task_of("busy"), TaskState.RUNNING, run="busy")
    agents = [writer(), agent_view("editor", instances=(instance_of("editor-0"),))]
    waiting = plan_tasks([manifest], busy, run_of(manifest, TaskState.AUTHORISED), agents=agents)
    assert said(waiting[-1]) == (Action.HOLD, "all instances of writer are busy")


def test_when_that_agent_left_policy_is_asked_about_another() -> None:
    manifest = task_of(agent=None, requires=["docs.write"])
    run = run_of(manifest, TaskState.AUTHORISED)
    editor = agent_view("editor", instances=(instance_of("editor-0"),))
    assert said(plan_run(run, manifest, agents=[editor])) == (Action.AUTHORISE, "asking policy about editor")
    assert plan_run(run, manifest, agents=[editor]).spec.state is TaskState.REJECTED
    assert said(plan_run(run, manifest, agents=[])) == (Action.HOLD, "no agent has docs.write")
    assert said(plan_run(AUTHORISED, TASK, agents=[editor])) == (Action.HOLD, "agent writer is not in the fleet")


def test_while_that_agent_cannot_work_policy_is_asked_about_another_that_is_free() -> None:
    manifest = task_of(agent=None, requires=["docs.write"])
    run = run_of(manifest, TaskState.AUTHORISED)
    editor = agent_view("editor", instances=(instance_of("editor-0"),))
    for own in (agent_view(instances=()), writer(instance_of(ready=False, reason="it is handshaking"))):
        change = plan_run(run, manifest, agents=[own, editor])
        assert said(change) == (Action.AUTHORISE, "asking policy about editor")
        assert change.spec.state is None
        waiting = replace(editor, instances=(instance_of("editor-0", ready=False),))
        assert plan_run(run, manifest, agents=[own, waiting]).action is Action.HOLD


def test_an_agent_without_instances_is_the_last_choice() -> None:
    manifest = task_of(agent=None, requires=["docs.write"])
    agents = [agent_view("a", instances=()), agent_view("b", instances=(instance_of("b-0"),))]
    assert plan_run(run_of(manifest), manifest, agents=agents).reason == "asking policy about b"


def test_runs_go_to_the_instance_with_the_least_to_do() -> None:
    agents = [writer(instance_of("writer-0"), instance_of("writer-1"), max_parallel=2)]
    busy = run_of(task_of("busy"), TaskState.RUNNING, run="busy")
    tasks = [task_of("a"), task_of("b"), task_of("c")]
    runs = [run_of(t, TaskState.AUTHORISED, run=t.name) for t in tasks]
    changes = plan_tasks([*tasks, task_of("busy")], busy, *runs, agents=agents)
    given = {c.name: c.reason for c in changes if c.name != "busy"}
    assert given == {"a": "to writer-1", "b": "to writer-0", "c": "to writer-1"}


def test_an_instance_gets_no_more_than_its_agent_may_do_at_once() -> None:
    tasks = [task_of("a"), task_of("b"), task_of("c")]
    runs = [run_of(t, TaskState.AUTHORISED, run=t.name) for t in tasks]
    changes = plan_tasks(tasks, *runs, agents=[writer(max_parallel=2)])
    assert [said(c) for c in changes] == [
        (Action.DISPATCH, "to writer-0"),
        (Action.DISPATCH, "to writer-0"),
        (Action.HOLD, "all instances of writer are busy"),
    ]


def test_the_fleet_does_no_more_than_the_hub_allows_at_once() -> None:
    hub = HubSpec.model_validate({"orchestrator": {"maxParallelTasks": 2}})
    busy = run_of(task_of("busy"), TaskState.RUNNING, run="busy")
    tasks = [task_of("a"), task_of("b")]
    runs = [run_of(t, TaskState.AUTHORISED, run=t.name) for t in tasks]
    changes = plan_tasks([*tasks, task_of("busy")], busy, *runs, agents=[writer(max_parallel=9)], hub=hub)
    assert [said(c) for c in changes if c.name != "busy"] == [
        (Action.DISPATCH, "to writer-0"),
        (Action.HOLD, "the fleet runs 2 tasks already (maxParallelTasks)"),
    ]


def test_higher_priority_goes_first_and_then_the_older_one() -> None:
    tasks = [task_of("low", priority=-1), task_of("old"), task_of("new"), task_of("high", priority=5)]
    created = {"low": "1", "old": "2", "new": "3", "high": "4"}
    runs = [run_of(t, TaskState.AUTHORISED, run=t.name, created_at=created[t.name]) for t in tasks]
    changes = plan_tasks(tasks, *runs)
    assert [c.name for c in changes] == ["high", "old", "new", "low"]
    assert [c.action for c in changes] == [Action.DISPATCH, Action.HOLD, Action.HOLD, Action.HOLD]


@pytest.mark.parametrize(
    ("agents", "why"),
    [
        ([writer(instance_of(ready=False, reason="it is handshaking"))], "writer-0 is not ready: it is handshaking"),
        ([agent_view(instances=())], "writer has no instances (replicas: 0)"),
        ([], "agent writer is not in the fleet"),
    ],
)
def test_a_run_that_cannot_go_says_what_it_waits_for(agents: list[Any], why: str) -> None:
    assert said(plan_run(AUTHORISED, TASK, agents=agents)) == (Action.HOLD, why)


# --- dependencies -----------------------------------------------------------------------------------------------------


CHILD = task_of("child", dependsOn=["changelog"])


def child_of(parent: TaskRecord | None) -> Change:
    runs = [parent] if parent is not None else []
    changes = plan_tasks([TASK, CHILD], *runs, run_of(CHILD, TaskState.AUTHORISED))
    return next(c for c in changes if c.name == "child" and c.action is not Action.CREATE)


@pytest.mark.parametrize("state", sorted(set(TaskState) - FINAL))
def test_a_run_waits_for_what_it_depends_on(state: TaskState) -> None:
    assert said(child_of(run_of(TASK, state))) == (Action.HOLD, "waiting for changelog")


def test_a_run_waits_for_what_has_not_begun_at_all() -> None:
    assert said(child_of(None)) == (Action.HOLD, "waiting for changelog")


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (TaskState.FAILED, "it depends on changelog, which failed"),
        (TaskState.TIMED_OUT, "it depends on changelog, which timed out"),
        (TaskState.CANCELLED, "it depends on changelog, which was cancelled"),
        (TaskState.REJECTED, "it depends on changelog, which was rejected"),
    ],
)
def test_a_run_is_cancelled_with_what_it_depends_on(state: TaskState, why: str) -> None:
    change = child_of(run_of(TASK, state))
    assert said(change) == (Action.COMPLETE, why)
    assert (change.spec.state, change.spec.reason) == (TaskState.CANCELLED, why)


def test_a_run_waits_for_the_next_run_of_a_dependency_that_was_edited() -> None:
    edited = task_of(prompt="another")
    changes = plan_tasks([edited, CHILD], run_of(TASK, TaskState.FAILED), run_of(CHILD, TaskState.AUTHORISED))
    assert said(next(c for c in changes if c.name == "child")) == (Action.HOLD, "waiting for changelog")


def test_a_run_gets_the_runs_that_it_depends_on() -> None:
    change = child_of(run_of(TASK, TaskState.SUCCEEDED))
    assert change.action is Action.DISPATCH
    assert change.spec.parents == {"changelog": "run-changelog"}


def test_only_the_newest_run_of_a_dependency_counts() -> None:
    old, new = run_of(TASK, TaskState.FAILED, run="old"), run_of(TASK, TaskState.RUNNING, run="new")
    changes = plan_tasks([TASK, CHILD], old, new, run_of(CHILD, TaskState.AUTHORISED))
    assert said(next(c for c in changes if c.name == "child")) == (Action.HOLD, "waiting for changelog")


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_a_run_that_failed_waits_before_its_next_attempt() -> None:
    run = replace(AUTHORISED, attempts=1, reason="failed on writer-0: it broke", not_before_boot=BOOT_S + 2)
    change = plan_run(run, TASK)
    assert (*said(change), change.wait_s) == (Action.HOLD, "next attempt in 2s: failed on writer-0: it broke", 2.0)
    assert plan_run(replace(run, not_before_boot=BOOT_S), TASK).action is Action.DISPATCH
    assert plan_run(replace(run, boot_id="another boot"), TASK).action is Action.DISPATCH


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("failed on writer-0: it broke", TaskState.FAILED),
        ("lost with writer-0: it crashed", TaskState.FAILED),
        ("timed out on writer-0: too slow", TaskState.TIMED_OUT),
    ],
)
def test_a_run_without_attempts_left_ends_with_why(reason: str, state: TaskState) -> None:
    change = plan_run(replace(AUTHORISED, attempts=3, reason=reason), TASK)
    assert said(change) == (Action.COMPLETE, f"no attempts left: {reason}")
    assert (change.spec.state, change.spec.reason) == (state, f"{reason} (attempt 3 of 3)")


def test_a_manifest_may_ask_for_more_or_fewer_attempts_than_the_hub() -> None:
    once = task_of(retries={"maxAttempts": 1})
    run = run_of(once, TaskState.AUTHORISED, attempts=1, reason="failed on writer-0: no")
    assert plan_run(run, once).action is Action.COMPLETE
    often = task_of(retries={"maxAttempts": 9})
    assert plan_run(run_of(often, TaskState.AUTHORISED, attempts=3), often).action is Action.DISPATCH
