"""What follows when a run ends: the checks of its result, another agent, and who is told."""

import json
from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.change import Action, Change
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.child import check_id, check_run, escalation_id, escalation_run
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import FINAL, FOR_GOOD, TaskState
from reconciler.settings import HubSpec
from reconciler.store.records import TaskRecord
from tests.fakes.fleet import agent_view
from tests.kinds.task.build import BOOT_S, HUB, instance_of, plan_run, plan_tasks, run_of, task_of, writer

CHECKED = task_of(
    acceptance=[
        {"regex": "^# "},
        {"command": ["python3", "check.py"]},
        {"agent": "reviewer", "prompt": "Is it short?"},
    ]
)
REVIEWER = agent_view("reviewer", instances=(instance_of("reviewer-0"),))
YES, NO = {"check": "c", "accept": True, "reason": ""}, {"check": "c", "accept": False, "reason": "too long"}


def said(change: Change) -> tuple[Action, str]:
    return change.action, change.reason


def checking(*verdicts: dict[str, Any], **more: Any) -> TaskRecord:
    more = {"instance": "writer-0", "generation": 1, "attempts": 1, "checks": json.dumps(verdicts), **more}
    return run_of(CHECKED, TaskState.CHECKING, **more)


def planned(run: TaskRecord, *others: TaskRecord, **more: Any) -> dict[str, Change]:
    """Changes by name of the task."""
    return {c.name: c for c in plan_tasks([CHECKED], run, *others, agents=[writer(), REVIEWER], **more)}


# --- acceptance -------------------------------------------------------------------------------------------------------


def test_checks_are_made_in_the_order_in_which_they_are_listed() -> None:
    run = checking()
    assert said(planned(run)["changelog"]) == (Action.CHECK, "regex ^# ")
    (command,) = planned(checking(YES)).values()
    assert said(command) == (Action.CREATE, "command python3 check.py, for changelog")
    (verdict,) = planned(checking(YES, YES)).values()
    assert said(verdict) == (Action.CREATE, "verdict of reviewer, for changelog")


def test_a_check_that_takes_an_agent_is_a_run_of_its_own_that_is_made_once() -> None:
    run = checking(YES)
    child = planned(run)["check-run-changelog-1-1"].spec.new[0]
    assert (child.run, child.parent, child.purpose, child.step) == (check_id(run, 1), run.run, "check", 1)
    assert (child.source, child.revision, child.created_at) == (run.source, run.revision, run.created_at)
    assert json.loads(child.manifest) == {
        "labels": {},
        "spec": {"agent": "writer", "priority": 0, "prompt": "", "sensitivity": "internal", "timeout": 600.0},
        "argv": ["python3", "check.py"],
    }
    changes = planned(run, child)
    assert said(changes["changelog"]) == (
        Action.HOLD,
        "waiting for command python3 check.py: check-run-changelog-1-1 is pending",
    )
    assert said(changes[child.name]) == (Action.AUTHORISE, "asking policy about writer")


def test_another_attempt_has_other_checks() -> None:
    run = checking(YES)
    assert len({check_id(run, 1), check_id(run, 2), check_id(replace(run, generation=2), 1)}) == 3


def test_the_verdict_is_asked_of_the_other_agent_in_the_words_of_the_manifest() -> None:
    child = check_run(checking(YES, YES), CHECKED.spec, 2)
    spec = json.loads(child.manifest)["spec"]
    assert spec["agent"] == "reviewer"
    assert spec["prompt"].startswith("Is it short?\n\nAnswer with one JSON object")


@pytest.mark.parametrize("state", sorted(FINAL))
def test_when_such_a_run_has_ended_its_verdict_is_taken(state: TaskState) -> None:
    run = checking(YES)
    child = replace(check_run(run, CHECKED.spec, 1), state=state)
    change = planned(run, child)["changelog"]
    assert said(change) == (Action.CHECK, "command python3 check.py")
    assert change.spec.child == child


def test_a_command_runs_where_the_result_was_made_and_elsewhere_only_when_that_is_gone() -> None:
    run = checking(YES, instance="writer-1")
    child = replace(check_run(run, CHECKED.spec, 1), state=TaskState.AUTHORISED, agent="writer")

    def where(*instances: Any) -> tuple[Action, str]:
        changes = plan_tasks([CHECKED], run, child, agents=[writer(*instances)])
        return said(next(c for c in changes if c.name == child.name))

    free = instance_of("writer-0")
    assert where(free, instance_of("writer-1")) == (Action.DISPATCH, "to writer-1")
    assert where(free, instance_of("writer-1", ready=False))[0] is Action.HOLD
    assert where(free) == (Action.DISPATCH, "to writer-0")


def test_after_a_failure_the_hub_goes_on_checking_but_no_agent_is_troubled() -> None:
    twice = task_of(acceptance=[{"regex": "a"}, {"agent": "reviewer"}, {"regex": "b"}])
    run = run_of(twice, TaskState.CHECKING, checks=json.dumps([NO]))
    (change,) = plan_tasks([twice], run)
    assert said(change) == (Action.CHECK, "verdict of reviewer: not asked for, since c failed")
    (change,) = plan_tasks([twice], replace(run, checks=json.dumps([NO, NO])))
    assert said(change) == (Action.CHECK, "regex b")


def test_what_passes_every_check_has_succeeded() -> None:
    change = planned(checking(YES, YES, YES))["changelog"]
    assert said(change) == (Action.COMPLETE, "accepted")
    assert change.spec.state is TaskState.SUCCEEDED


def test_what_fails_one_is_tried_again_with_all_the_reasons() -> None:
    change = planned(checking(NO, YES, {**NO, "check": "verdict of reviewer", "reason": "dull"}))["changelog"]
    assert said(change) == (Action.RETRY, "not accepted: c: too long; verdict of reviewer: dull")
    assert change.spec.remedy == "c: too long; verdict of reviewer: dull"


def test_what_fails_its_checks_each_time_has_failed() -> None:
    run = run_of(CHECKED, TaskState.AUTHORISED, attempts=3, reason="not accepted: c: too long")
    change = plan_run(run, CHECKED)
    assert (change.action, change.spec.state) == (Action.COMPLETE, TaskState.FAILED)
    assert change.spec.reason == "not accepted: c: too long (attempt 3 of 3)"


@pytest.mark.parametrize(
    "parent",
    [
        replace(checking(YES), state=TaskState.CANCELLED),
        checking(YES, generation=2),
        replace(checking(YES), state=TaskState.RUNNING),
    ],
    ids=["cancelled", "of an older attempt", "tried again"],
)
def test_a_check_that_nobody_waits_for_is_cancelled(parent: TaskRecord) -> None:
    child = check_run(checking(YES), CHECKED.spec, 1)
    change = planned(parent, child)[child.name]
    assert (change.action, change.towards) == (Action.CANCEL, None)
    assert "waits for it no more" in change.reason


def test_checking_goes_on_while_the_agents_cannot_be_read() -> None:
    assert planned(checking(), is_fleet_known=False)["changelog"].action is Action.CHECK


# --- another agent ----------------------------------------------------------------------------------------------------


def able(**spec: Any) -> Manifest[TaskSpec]:
    return task_of(agent=None, requires=["docs.write"], **spec)


def spent(manifest: Manifest[TaskSpec], **more: Any) -> TaskRecord:
    more = {"attempts": 3, "reason": "failed on writer-0: it broke", **more}
    return run_of(manifest, TaskState.AUTHORISED, **more)


EDITOR = agent_view("editor", instances=(instance_of("editor-0"),))


def test_after_its_last_attempt_with_one_agent_another_may_take_it() -> None:
    change = plan_run(spent(able()), able(), agents=[writer(), EDITOR])
    assert said(change) == (Action.AUTHORISE, "asking policy about editor, since writer had all its attempts")
    assert (change.spec.is_fallback, change.spec.state) == (True, None)


def test_the_other_one_has_all_attempts_again() -> None:
    moved = spent(able(), agent="editor", tried="writer", spent=3)
    assert said(plan_run(moved, able(), agents=[writer(), EDITOR])) == (Action.DISPATCH, "to editor-0")
    change = plan_run(replace(moved, attempts=6), able(), agents=[writer(), EDITOR])
    assert (change.action, change.spec.state) == (Action.COMPLETE, TaskState.FAILED)
    assert change.spec.reason == "failed on writer-0: it broke (attempt 3 of 3, after writer)"


def test_what_an_agent_failed_for_good_is_not_tried_by_it_again_but_maybe_by_another() -> None:
    failed = spent(able(), attempts=1, reason=f"{FOR_GOOD} on writer-0: no such model")
    change = plan_run(failed, able(), agents=[writer()])
    assert (change.action, change.spec.state) == (Action.COMPLETE, TaskState.FAILED)
    assert change.spec.reason == "failed for good on writer-0: no such model (attempt 1 of 3)"
    change = plan_run(failed, able(), agents=[writer(), EDITOR])
    assert said(change) == (Action.AUTHORISE, "asking policy about editor, since writer failed for good")
    moved = replace(failed, agent="editor", tried="writer", spent=1)
    assert said(plan_run(moved, able(), agents=[writer(), EDITOR])) == (Action.DISPATCH, "to editor-0")


@pytest.mark.parametrize(
    ("manifest", "other", "hub"),
    [
        (task_of(), EDITOR, HUB),
        (able(), EDITOR, HubSpec.model_validate({"orchestrator": {"fallbackOnError": False}})),
        (able(), agent_view("editor", capabilities=()), HUB),
        (able(sensitivity="confidential"), replace(EDITOR, exposure="public"), HUB),
        (able(sensitivity="restricted"), replace(EDITOR, sandboxed=False), HUB),
        (
            able(sensitivity="public"),
            replace(EDITOR, exposure="public"),
            HubSpec.model_validate({"sensitivity": {"public": ["private"]}}),
        ),
    ],
    ids=["its agent is named", "switched off", "not able", "a public model", "no sandbox", "the hub's own rules"],
)
def test_it_goes_to_nobody_who_may_not_have_it(manifest: Manifest[TaskSpec], other: Any, hub: HubSpec) -> None:
    change = plan_run(spent(manifest), manifest, agents=[writer(), other], hub=hub)
    assert (change.action, change.spec.state) == (Action.COMPLETE, TaskState.FAILED)


def test_an_agent_that_came_to_use_a_public_model_gets_no_more_of_a_confidential_run() -> None:
    manifest = able(sensitivity="confidential")
    run = run_of(manifest, TaskState.AUTHORISED, attempts=1, not_before_boot=BOOT_S)
    change = plan_run(run, manifest, agents=[writer(exposure="public")])
    assert said(change) == (Action.HOLD, "confidential work may not reach writer, whose model is public")


def test_of_equal_agents_the_more_trusted_one_is_asked_about() -> None:
    agents = [writer(trust=0.6), replace(EDITOR, trust=0.9)]
    assert plan_run(run_of(able()), able(), agents=agents).spec.agent.name == "editor"


# --- escalation -------------------------------------------------------------------------------------------------------

TOLD = task_of(escalate={"agent": "reviewer"})


def test_an_agent_is_told_once_of_what_came_to_no_good_end() -> None:
    run = run_of(TOLD, TaskState.FAILED, generation=3, escalated="agent reviewer", reason="it broke")
    (change,) = plan_tasks([TOLD], run)
    assert said(change) == (Action.CREATE, "changelog came to no good end, and reviewer is told")
    (child,) = change.spec.new
    assert (child.run, child.name) == (escalation_id(run), "escalation-run-changelog-3")
    spec = json.loads(child.manifest)["spec"]
    assert (spec["agent"], spec["escalate"]) == ("reviewer", {"to": "operator"})
    assert [c.action for c in plan_tasks([TOLD], run, child, agents=[writer(), REVIEWER])] == [
        Action.AUTHORISE,
        Action.KEEP,
    ]


def test_what_an_agent_was_told_stays_its_work_when_the_task_is_tried_again() -> None:
    run = run_of(TOLD, TaskState.FAILED, generation=3, escalated="agent reviewer")
    child = escalation_run(run, TOLD.spec, "reviewer")
    again = replace(run, state=TaskState.PENDING, escalated="")
    changes = plan_tasks([TOLD], again, child, agents=[writer(), REVIEWER])
    assert {c.name: c.action for c in changes} == {"changelog": Action.AUTHORISE, child.name: Action.AUTHORISE}


def test_a_person_is_needed_no_more_when_the_manifest_was_changed_or_removed() -> None:
    run = run_of(TOLD, TaskState.FAILED, escalated="operator")
    assert [c.action for c in plan_tasks([TOLD], run)] == [Action.KEEP]
    (gone,) = plan_tasks([], run)
    assert said(gone) == (Action.UPDATE, "its manifest was removed from git: no person is needed")
    assert plan_tasks([], replace(run, escalated="acknowledged")) == []
