"""Taking a run one step further: what is recorded before what is sent, and what policy and agents are told."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change
from reconciler.core.outcome import Applied, Failed, Outcome, Skipped
from reconciler.errors import RouterError
from reconciler.kinds.task.apply import apply, apply_joint, join
from reconciler.kinds.task.step import TaskWork
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, change_of, show
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, hub_text, task_text


def begin(fleet: FakeFleet, passes: int = 5, **spec: Any) -> None:
    """A fleet with a writer and `changelog`, some passes later; agents begin, but end nothing."""
    fleet.agents.holding.add("changelog")
    fleet.commit(
        {"agents.d/a.yaml": agent_text(workspace={"source": "repository"}), "tasks.d/t.yaml": task_text(**spec)}
    )
    for _ in range(passes):
        fleet.run()
        fleet.agents.step()


def assignment(fleet: FakeFleet) -> dict[str, Any]:
    """The last message that was sent to an agent."""
    return dict(fleet.router.sent[-1]["message"])


def test_policy_is_told_about_task_and_agent(fleet: FakeFleet) -> None:
    begin(fleet, sensitivity="confidential", priority=7, labels={"team": "docs"})
    (question,) = [q for entry_point, q in fleet.policy.asked if entry_point == "task"]
    assert question["task"] == {
        "name": "changelog",
        "labels": {"team": "docs"},
        "sensitivity": "confidential",
        "source": "git",
        "uid": None,
        "requires": [],
        "priority": 7,
        "revision": fleet.loop.revisions.applied,
    }
    assert question["agent"] == {
        "name": "writer",
        "role": "writer",
        "labels": {},
        "capabilities": ["docs.write"],
        "trust": 1.0,
        "exposure": "none",
        "sandboxed": True,
    }
    assert question["time"] == "2026-01-01T12:00:00Z"


def test_what_policy_denies_is_rejected_with_its_reasons(fleet: FakeFleet) -> None:
    fleet.policy.deny("task", "not on a Sunday")
    begin(fleet)
    run = fleet.task("changelog")
    assert (run.state, run.reason) == ("rejected", "policy (fake) said no: not on a Sunday")
    assert run.finished_at
    assert fleet.router.sent == []


def test_an_agent_that_policy_denies_does_not_get_work_that_another_was_allowed_to_do(fleet: FakeFleet) -> None:
    fleet.policy.deny("task", "not this one", lambda q: q["agent"]["name"] == "reader")
    agents = {"agents.d/a.yaml": agent_text("another"), "agents.d/b.yaml": agent_text("reader")}
    fleet.commit({**agents, "tasks.d/t.yaml": task_text(agent=None, requires=["docs.write"])})
    fleet.agents.silent.add("another-0")
    for _ in range(6):
        fleet.run()
        fleet.agents.step()
    run = fleet.task("changelog")
    assert (run.state, run.agent) == ("authorised", "another")
    assert any("policy (fake) does not allow reader: not this one" in e.reason for e in fleet.audit())
    fleet.agents.silent.clear()
    fleet.settle()
    assert fleet.task("changelog").instance == "another-0"


def test_an_engine_that_cannot_answer_decides_nothing(fleet: FakeFleet) -> None:
    fleet.policy.is_away = True
    begin(fleet, passes=3)
    assert fleet.states() == {"changelog": "pending"}
    fleet.policy.is_away = False
    fleet.clock.advance(10)
    fleet.run()
    assert fleet.states() == {"changelog": "authorised"}


def test_a_task_of_the_inbox_for_an_agent_that_left_is_rejected(fleet: FakeFleet) -> None:
    begin(fleet)
    run = fleet.task("changelog")
    stray = replace(
        run, run="stray", name="stray", source="inbox", state="pending", manifest=run.manifest.replace("writer", "gone")
    )
    records.put_tasks(fleet.store, [stray])
    fleet.run()
    assert fleet.task("stray").state == "rejected"
    assert fleet.task("stray").reason == "agent gone is not in the fleet"


def test_the_agent_is_told_everything_that_it_needs(fleet: FakeFleet) -> None:
    begin(
        fleet,
        prompt="Summarise.",
        input={"tag": "v1"},
        timeout="1m",
        output={"artefacts": ["*.md"], "maxSize": "1KiB"},
        sensitivity="public",
    )
    run = fleet.task("changelog")
    message = assignment(fleet)
    assert (message["type"], message["pattern"], message["id"]) == ("task.assigned", "request", f"{run.run}-1")
    assert message["payload"] == {
        "task": "changelog",
        "run": run.run,
        "generation": 1,
        "lease_s": 30.0,
        "timeout_s": 60.0,
        "prompt": "Summarise.",
        "input": {"tag": "v1"},
        "parents": {},
        "workspace": f"/workspaces/{run.revision[:12]}",
        "output": {"maxSize": 1024, "artefacts": ["*.md"]},
        "sensitivity": "public",
    }
    assert (fleet.folder / "workspaces" / "full" / run.revision[:12] / "hub.yaml").exists()


def test_results_of_what_it_depends_on_come_with_it(fleet: FakeFleet) -> None:
    fleet.commit(
        {
            "agents.d/a.yaml": agent_text(),
            "tasks.d/a.yaml": task_text("first"),
            "tasks.d/b.yaml": task_text("second", dependsOn=["first"]),
        }
    )
    fleet.settle()
    assert assignment(fleet)["payload"]["parents"] == {"first": {"by": "writer-0"}}


def test_the_assignment_is_on_record_before_it_is_sent(fleet: FakeFleet) -> None:
    begin(fleet, passes=2)
    fleet.router.fail_next("send")
    report = fleet.run()
    run = fleet.task("changelog")
    assert len(report.failed) == 1
    assert (run.state, run.generation, run.attempts, run.sent_epoch) == ("assigned", 1, 1, "")
    fleet.clock.advance(5)
    fleet.run()
    run = fleet.task("changelog")
    assert (run.generation, run.attempts, run.sent_epoch) == (1, 1, "epoch-1")
    assert len(records.attempts(fleet.store, run.run)) == 1


def test_a_new_router_gets_the_same_generation_again(fleet: FakeFleet) -> None:
    begin(fleet, passes=2)
    fleet.agents.silent.add("writer-0")
    fleet.run()
    assert fleet.task("changelog").state == "assigned"
    fleet.router.die()
    fleet.agents.silent.clear()
    for _ in range(4):
        fleet.run()
        fleet.agents.step()
    run = fleet.task("changelog")
    assert (run.state, run.generation, run.attempts, run.sent_epoch) == ("running", 1, 1, "epoch-2")
    assert len(fleet.agents.executed) == 1


def test_what_was_sent_to_a_router_that_began_since_planning_is_sent_again(fleet: FakeFleet) -> None:
    begin(fleet, passes=2)
    desired, change = fleet.loop.revisions.last_good(), change_of(fleet.look(), "task/changelog")
    assert desired is not None
    instances = dict(fleet.router.instances)
    fleet.router.die()
    fleet.router.start()
    fleet.router.instances |= instances
    assert apply(change, fleet.world, desired) == Applied(note="generation 1")
    again = change_of(fleet.run(), "task/changelog")
    assert (again.action, again.reason) == (Action.DISPATCH, "sent again to writer-0 (generation 1)")
    assert fleet.task("changelog").sent_epoch == "epoch-2"


def test_a_run_that_was_lost_is_assigned_again_only_after_its_container_is_dead(fleet: FakeFleet) -> None:
    begin(fleet)
    fleet.agents.silent.add("writer-0")
    before = len(fleet.runtime.calls)
    while fleet.task("changelog").state == "running":
        fleet.watch(1)
    run = fleet.task("changelog")
    assert (run.state, run.instance) == ("authorised", "")
    assert "has not called for 3" in run.reason
    assert ("stop", "writer-0") in fleet.runtime.calls[before:]
    assert fleet.containers() == {"writer-0": "exited"}
    fleet.agents.silent.clear()
    fleet.agents.holding.clear()
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.generation, run.attempts) == ("succeeded", 2, 2)
    assert fleet.agents.violations == []


def test_a_container_that_cannot_be_stopped_keeps_its_run(fleet: FakeFleet) -> None:
    begin(fleet)
    fleet.agents.silent.add("writer-0")
    fleet.runtime.fail_next("stop", "timed out", times=99)
    failed = [done for report in fleet.watch(60) for done in report.failed]
    assert {done.change.unit for done in failed} == {"task/changelog"}
    assert fleet.task("changelog").state == "running"


def test_runs_that_nobody_could_report_of_are_not_lost(fleet: FakeFleet) -> None:
    """The router stood still, or the whole machine; its agents call again a little later."""
    begin(fleet, timeout="1d")
    fleet.router.unreadable = "it does not answer"
    fleet.watch(200)
    fleet.router.unreadable = ""
    fleet.watch(20)
    fleet.clock.advance(3600)
    fleet.watch(20)
    fleet.agents.step()
    assert fleet.watch(20)[-1].failed == ()
    assert (fleet.task("changelog").state, fleet.task("changelog").generation) == ("running", 1)
    assert ("stop", "writer-0") not in fleet.runtime.calls


def test_a_run_that_takes_too_long_is_ended_with_its_container_and_tried_again_later(fleet: FakeFleet) -> None:
    begin(fleet, timeout="1m", retries={"maxAttempts": 2, "baseDelay": "8s", "jitter": False})
    fleet.clock.advance(100)
    fleet.agents.step()
    fleet.run()
    run = fleet.task("changelog")
    assert (run.state, run.reason) == ("authorised", "timed out after 1m, and its agent did not stop it")
    assert run.not_before_boot == pytest.approx(fleet.clock.boottime() - 0.5 + 8.0)
    assert fleet.containers() == {"writer-0": "exited"}


def test_when_all_attempts_timed_out_the_run_has_timed_out(fleet: FakeFleet) -> None:
    begin(fleet, timeout="1m", retries={"maxAttempts": 1})
    fleet.clock.advance(100)
    fleet.agents.step()
    fleet.run()
    fleet.settle()
    run = fleet.task("changelog")
    assert run.state == "timed_out"
    assert run.reason == "timed out after 1m, and its agent did not stop it (attempt 1 of 1)"


def test_a_run_that_fails_each_time_ends_failed_after_its_attempts(fleet: FakeFleet) -> None:
    fleet.agents.failing["changelog"] = 99
    fleet.commit(
        {"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text(retries={"maxAttempts": 2, "baseDelay": "1s"})}
    )
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.attempts, run.generation) == ("failed", 2, 2)
    assert run.reason == "failed on writer-0: it broke (attempt 2 of 2)"
    assert [a.outcome for a in records.attempts(fleet.store, run.run)] == ["failed", "failed"]


def test_a_run_that_fails_once_succeeds_at_the_next_attempt(fleet: FakeFleet) -> None:
    fleet.agents.failing["changelog"] = 1
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text()})
    fleet.settle()
    assert (fleet.task("changelog").state, fleet.task("changelog").attempts) == ("succeeded", 2)


def test_removing_a_manifest_cancels_its_run(fleet: FakeFleet) -> None:
    begin(fleet)
    assert fleet.states() == {"changelog": "running"}
    fleet.commit({"agents.d/a.yaml": agent_text(workspace={"source": "repository"})})
    fleet.run()
    run = fleet.task("changelog")
    order = {"task": "changelog", "run": run.run, "generation": 1}
    message = assignment(fleet)
    assert (message["type"], message["payload"]) == ("task.cancel", order)
    assert fleet.router.cancels["writer-0"] == [order]
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.reason) == ("cancelled", "cancel requested: its manifest was removed from git")
    assert fleet.agents.doing() == []


@pytest.mark.parametrize("does_message_arrive", [True, False])
def test_a_run_whose_assignment_was_lost_with_the_router_is_cancelled_all_the_same(
    fleet: FakeFleet, does_message_arrive: bool
) -> None:
    """Either the cancellation's message tells the daemon, or the answer to its next heartbeat does."""
    fleet.agents.holding.add("changelog")
    agent = {"agents.d/a.yaml": agent_text()}
    fleet.commit(agent)
    fleet.settle()
    fleet.agents.silent.add("writer-0")
    fleet.commit({**agent, "tasks.d/t.yaml": task_text()})
    fleet.watch(9)
    assert fleet.states() == {"changelog": "assigned"}
    fleet.commit(agent)
    fleet.run()
    fleet.router.die()
    fleet.run()
    fleet.run()
    registered = fleet.router.instances["writer-0"]
    assert [m["type"] for m in registered.mailbox] == ["task.cancel"]
    if not does_message_arrive:
        registered.mailbox.clear()
    fleet.agents.silent.clear()
    fleet.settle()
    assert fleet.states() == {"changelog": "cancelled"}
    assert fleet.agents.executed == []
    assert fleet.containers() == {"writer-0": "running"}


def test_changing_a_manifest_cancels_its_run_and_begins_another(fleet: FakeFleet) -> None:
    begin(fleet)
    fleet.commit(
        {"agents.d/a.yaml": agent_text(workspace={"source": "repository"}), "tasks.d/t.yaml": task_text(prompt="new")}
    )
    fleet.run()
    fleet.agents.step()
    fleet.agents.holding.clear()
    fleet.settle()
    assert sorted(t.state for t in fleet.tasks()) == ["cancelled", "succeeded"]
    assert fleet.task("changelog").state == "succeeded"
    assert fleet.agents.violations == []


def test_a_run_to_be_cancelled_whose_agent_dies_is_cancelled_and_not_tried_again(fleet: FakeFleet) -> None:
    begin(fleet)
    asked = replace(fleet.task("changelog"), reason="cancel requested: by uid:0")
    records.put_tasks(fleet.store, [asked])
    fleet.runtime.crash("writer-0")
    fleet.settle()
    assert fleet.states() == {"changelog": "cancelled"}
    assert len(fleet.agents.executed) == 1


def test_all_that_one_instance_is_to_cancel_is_told_at_once(fleet: FakeFleet) -> None:
    fleet.agents.holding.update(("a", "b"))
    agent = {"agents.d/a.yaml": agent_text(tasks={"maxParallel": 2})}
    fleet.commit({**agent, "tasks.d/a.yaml": task_text("a"), "tasks.d/b.yaml": task_text("b")})
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    assert fleet.states() == {"a": "running", "b": "running"}
    fleet.commit(agent)
    fleet.run()
    assert sorted(c["task"] for c in fleet.router.cancels["writer-0"]) == ["a", "b"]


def test_a_run_that_changed_since_planning_is_left_to_the_next_pass(fleet: FakeFleet) -> None:
    begin(fleet)
    run = fleet.task("changelog")
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    for old in (replace(run, state="assigned"), replace(run, generation=0), replace(run, run="gone")):
        change = Change(kind="task", name="changelog", action=Action.CANCEL, reason="x", spec=TaskWork(run=old))
        assert isinstance(apply(change, fleet.world, desired), Skipped)
    change = Change(kind="task", name="changelog", action=Action.REPLACE, reason="x", spec=TaskWork(run=run))
    assert apply(change, fleet.world, desired) == Failed(reason="a task cannot be asked to replace", retryable=False)


def test_a_cancellation_outlives_a_kill_anywhere(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    fleet = FakeFleet(tmp_path / "template")
    begin(fleet)
    fleet.commit({"agents.d/a.yaml": agent_text(workspace={"source": "repository"})})
    fleet.end_hub()
    whole = fleet.copy(tmp_path / "whole", Fuse())
    whole.run()
    places = list(whole.fuse.visited)
    assert "cancels" in " ".join(places)
    whole.end_hub()
    for number in range(1, len(places) + 1):
        other = fleet.copy(tmp_path / str(number), Fuse(number))
        with pytest.raises(KilledError):
            other.settle()
        other.restart()
        other.settle()
        assert other.states() == {"changelog": "cancelled"}, places[number - 1]
        assert len(other.agents.executed) == 1
        other.end_hub()


def test_a_request_to_cancel_that_comes_while_the_run_is_sent_is_not_taken_for_told(fleet: FakeFleet) -> None:
    begin(fleet, passes=2)
    desired, run = fleet.loop.revisions.last_good(), fleet.task("changelog")
    assert desired is not None and run.state == "authorised"
    change = change_of(fleet.look(), "task/changelog")
    assert change.action is Action.DISPATCH
    send = fleet.router.send

    def send_slowly(order: Mapping[str, Any]) -> Any:
        asked = replace(fleet.task("changelog"), reason="cancel requested: by uid:0", sent_epoch="")
        records.put_tasks(fleet.store, [asked])
        return send(order)

    fleet.router.send = send_slowly  # type: ignore[method-assign, assignment]
    apply(change, fleet.world, desired)
    fleet.router.send = send  # type: ignore[method-assign]
    assert fleet.task("changelog").sent_epoch == ""
    fleet.settle()
    assert fleet.states() == {"changelog": "cancelled"}


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_a_run_marked_succeeded_by_hand_goes_on_from_where_its_attempts_say_that_it_is(
    fleet: FakeFleet, passes: int
) -> None:
    begin(fleet, passes=passes)
    before = fleet.task("changelog")
    records.put_tasks(fleet.store, [replace(before, state="succeeded")])
    report = fleet.run()
    change = change_of(report, "task/changelog")
    assert (change.action, change.cause) == (Action.UPDATE, Cause.DRIFT)
    assert change.reason.startswith("recorded as succeeded, but nothing ended it; by its attempts it is ")
    if before.state in ("assigned", "running"):
        assert fleet.task("changelog") == before
    assert [(e.cause, e.outcome) for e in fleet.audit() if e.action == "update" and e.kind == "task"] == [
        ("drift", "intent"),
        ("drift", "applied"),
    ]
    fleet.agents.holding.clear()
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.attempts) == ("succeeded", 1)
    assert run.run in records.results(fleet.store, [run.run])
    assert len(fleet.agents.executed) == 1


def test_what_depends_on_a_run_that_was_marked_succeeded_by_hand_goes_on_waiting(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    files = {"agents.d/a.yaml": agent_text(tasks={"maxParallel": 2}), "tasks.d/t.yaml": task_text()}
    fleet.commit({**files, "tasks.d/c.yaml": task_text("child", dependsOn=["changelog"])})
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    records.put_tasks(fleet.store, [replace(fleet.task("changelog"), state="succeeded", finished_at="2026-01-01")])
    fleet.run()
    assert fleet.states() == {"changelog": "running", "child": "authorised"}


def test_no_more_tasks_than_the_hub_allows_run_at_once(fleet: FakeFleet) -> None:
    names = [f"t{n}" for n in range(6)]
    fleet.commit(
        {"agents.d/a.yaml": agent_text(replicas=4), **{f"tasks.d/{n}.yaml": task_text(n) for n in names}},
        hub=hub_text(orchestrator={"maxParallelTasks": 3}, loop={"concurrency": 1}),
    )
    most = 0
    for _ in range(20):
        report = fleet.run()
        fleet.agents.step()
        most = max(most, len(fleet.agents.doing()))
        if report.is_converged:
            break
    assert report.is_converged, show(report)
    assert most == 3
    assert len(fleet.agents.executed) == 6


def test_an_agent_that_left_git_ends_what_it_does_before_it_goes(fleet: FakeFleet) -> None:
    begin(fleet)
    files = {"agents.d/b.yaml": agent_text("reader")}
    before = fleet.task("changelog")
    fleet.commit({**files, "agents.d/a.yaml": agent_text(replicas=0), "tasks.d/t.yaml": task_text()})
    for _ in range(80):
        fleet.run()
        fleet.agents.step()
    assert fleet.clock.boottime() > before.assigned_boot + 31
    assert fleet.task("changelog").generation == before.generation
    assert fleet.containers()["writer-0"] == "running"
    fleet.agents.holding.clear()
    fleet.settle()
    assert fleet.states() == {"changelog": "succeeded"}
    assert fleet.containers() == {"reader-0": "running"}
    assert len(fleet.agents.executed) == 1


# --- several at once --------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c")


def planned(fleet: FakeFleet, action: Action) -> Sequence[Change]:
    """Three tasks for a writer that may have them all, when this is what is next for each."""
    files = {f"tasks.d/{name}.yaml": task_text(name) for name in NAMES}
    fleet.commit({"agents.d/a.yaml": agent_text(tasks={"maxParallel": 3}), **files}, hub=hub_text())
    for _ in range(9):
        changes = sorted((c for c in fleet.look().plan.changes if c.action is action), key=lambda c: c.name)
        if len(changes) == len(NAMES):
            return changes
        fleet.run()
        fleet.agents.step()
    raise AssertionError(f"{action} was not planned for all")


def apply_all(fleet: FakeFleet, changes: Sequence[Change]) -> Sequence[Outcome]:
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    assert [list(group) for group in join(changes)] == [list(changes)]
    return apply_joint(changes, fleet.world, desired)


def test_runs_that_begin_together_are_one_call_and_each_is_on_record(fleet: FakeFleet) -> None:
    changes = planned(fleet, Action.DISPATCH)
    assert apply_all(fleet, changes) == [Applied(note="generation 1")] * 3
    assert [m["message"]["payload"]["task"] for m in fleet.router.sent] == list(NAMES)
    assert (fleet.router.calls["send_all"], fleet.router.calls["send"]) == (1, 0)
    for name in NAMES:
        run = fleet.task(name)
        assert (run.state, run.instance, run.sent_epoch) == ("assigned", "writer-0", "epoch-1")
        assert [a.generation for a in records.attempts(fleet.store, run.run)] == [1]


def test_of_those_that_policy_is_asked_about_together_one_denial_is_not_anothers(fleet: FakeFleet) -> None:
    changes = planned(fleet, Action.AUTHORISE)
    fleet.policy.deny("task", "not this one", lambda question: question["task"]["name"] == "b")
    assert [type(o) for o in apply_all(fleet, changes)] == [Applied, Applied, Applied]
    assert [fleet.task(name).state for name in NAMES] == ["authorised", "rejected", "authorised"]


@pytest.mark.parametrize("action", [Action.AUTHORISE, Action.DISPATCH])
def test_what_changed_meanwhile_is_left_alone_and_holds_up_no_other(fleet: FakeFleet, action: Action) -> None:
    changes = planned(fleet, action)
    cancelled = replace(fleet.task("b"), state="cancelled", finished_at="2026-01-01T12:00:00+00:00")
    records.put_tasks(fleet.store, [cancelled])
    assert [type(o) for o in apply_all(fleet, changes)] == [Applied, Skipped, Applied]
    assert fleet.task("b") == cancelled
    assert "b" not in [m["message"]["payload"]["task"] for m in fleet.router.sent]


def test_what_the_router_did_not_take_is_sent_again_by_the_next_pass(fleet: FakeFleet) -> None:
    changes = planned(fleet, Action.DISPATCH)
    fleet.router.fail_next("send_all")
    with pytest.raises(RouterError):
        apply_all(fleet, changes)
    assert [(fleet.task(n).state, fleet.task(n).sent_epoch) for n in NAMES] == [("assigned", "")] * 3
    fleet.run()
    assert [(fleet.task(n).generation, fleet.task(n).sent_epoch) for n in NAMES] == [(1, "epoch-1")] * 3


def test_a_refusal_of_one_assignment_is_its_own(fleet: FakeFleet) -> None:
    changes = planned(fleet, Action.DISPATCH)
    fleet.router.instances.clear()
    refused = "the router refused the assignment: there is no instance writer-0"
    assert apply_all(fleet, changes) == [Failed(reason=refused, retryable=False)] * 3
    assert {fleet.task(name).sent_epoch for name in NAMES} == {""}


def test_what_may_take_long_is_not_joined(fleet: FakeFleet) -> None:
    files = {f"tasks.d/{name}.yaml": task_text(name) for name in NAMES}
    agent = agent_text(tasks={"maxParallel": 3}, workspace={"source": "repository"})
    fleet.commit({"agents.d/a.yaml": agent, **files}, hub=hub_text())
    fleet.settle()
    assert {fleet.task(name).state for name in NAMES} == {"succeeded"}
    assert (fleet.router.calls["send_all"], fleet.router.calls["send"]) == (0, 3)
