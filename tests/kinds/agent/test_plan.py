"""What has to happen to an instance, question by question: each transition, and why."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.kinds.agent.plan import STABLE_S, plan
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.ports import ContainerSummary, InstanceReport
from reconciler.settings import HubSpec
from tests.fakes.clock import START
from tests.kinds.agent.build import (
    IMAGE_ID,
    desired_of,
    facts_of,
    manifest_of,
    plan_all,
    plan_one,
    record_of,
    state_of,
)

WRITER = manifest_of()
MINUTE = timedelta(minutes=1)
FOREIGN = ContainerSummary(id="f", name="writer-0", state="running", labels={}, image_id="x")


def said(change: Change) -> tuple[Action, Cause, str]:
    return change.action, change.cause, change.reason


# --- existence --------------------------------------------------------------------------------------------------------


def test_a_new_agent_is_created_once_for_each_replica() -> None:
    changes = plan_all([manifest_of(replicas=2), manifest_of("reader")])
    assert [(c.name, c.instance, *said(c)) for c in changes] == [
        ("reader", "reader-0", Action.CREATE, Cause.COMMIT, "new"),
        ("writer", "writer-0", Action.CREATE, Cause.COMMIT, "new"),
        ("writer", "writer-1", Action.CREATE, Cause.COMMIT, "new"),
    ]
    assert all(c.spec.image_id == IMAGE_ID for c in changes)


def test_an_instance_that_is_as_git_says_is_kept() -> None:
    assert said(plan_one(WRITER, state_of(record_of(WRITER)))) == (Action.KEEP, Cause.COMMIT, "as in git")


def test_a_container_that_went_away_is_made_again() -> None:
    change = plan_one(WRITER, state_of(record_of(WRITER), container=""))
    assert said(change) == (Action.CREATE, Cause.DRIFT, "its container is gone")
    assert change.disruptive


def test_an_attempt_that_did_not_finish_is_taken_up_again() -> None:
    activating = record_of(WRITER, phase=Phase.ACTIVATING)
    why = "an earlier attempt did not finish"
    assert said(plan_one(WRITER, state_of(activating, container=""))) == (Action.CREATE, Cause.START, why)
    for state in ("created", "exited", "dead"):
        assert said(plan_one(WRITER, state_of(activating, container=state))) == (Action.REPLACE, Cause.START, why)


def test_a_container_that_runs_already_is_adopted_when_it_says_hello() -> None:
    activating = state_of(record_of(WRITER, phase=Phase.ACTIVATING, container_id=""))
    change = plan_one(WRITER, activating)
    assert said(change) == (Action.UPDATE, Cause.START, "handshake completed")
    assert change.fields == (FieldChange(path="phase", before="activating", after="executing"),)
    assert change.spec.phase is Phase.EXECUTING


@pytest.mark.parametrize("state", ["created", "restarting"])
def test_a_container_in_an_odd_state_is_replaced(state: str) -> None:
    change = plan_one(WRITER, state_of(record_of(WRITER), container=state))
    assert said(change) == (Action.REPLACE, Cause.DRIFT, f"its container is {state}")


def test_a_paused_container_is_replaced() -> None:
    change = plan_one(WRITER, state_of(record_of(WRITER), container="paused"))
    assert said(change) == (Action.REPLACE, Cause.DRIFT, "its container was paused by hand")
    assert change.disruptive


# --- not ours ---------------------------------------------------------------------------------------------------------


def test_an_orphan_with_our_seal_is_recycled_whether_its_agent_is_wanted_or_not() -> None:
    orphan = InstanceState(name="writer-0", container=FOREIGN, sealed=True)
    for manifests in ([WRITER], []):
        (change,) = plan_all(manifests, orphan)
        assert said(change) == (Action.RECYCLE, Cause.DRIFT, "its container has no record: an orphan")
        assert (change.name, change.disruptive) == ("writer", True)


def test_a_container_without_our_seal_is_left_alone_whether_its_agent_is_wanted_or_not() -> None:
    foreign = InstanceState(name="writer-0", container=FOREIGN, sealed=False)
    for manifests in ([WRITER], []):
        (change,) = plan_all(manifests, foreign)
        assert change.action is Action.HOLD
        assert "it is not ours and is left alone" in change.reason


@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.parametrize("state", ["running", "exited", "paused", "created", "dead"])
def test_a_container_in_place_of_a_recorded_one_is_left_alone_without_our_seal(is_wanted: bool, state: str) -> None:
    squatter = state_of(record_of(WRITER), container=state, sealed=False)
    (change,) = plan_all([WRITER] if is_wanted else [], squatter, busy={"writer-0": 1})
    assert change.action is Action.HOLD
    assert "seal" in change.reason


# --- crashes ----------------------------------------------------------------------------------------------------------


def crashed(crashes: int = 0, exit_code: int = 1, oom: bool = False, age: timedelta = MINUTE, **spec: Any) -> Change:
    """What follows when a container of an agent ended `age` after its last transition."""
    manifest = manifest_of(**spec)
    record = record_of(manifest, crashes=crashes, updated_at=(START - age).isoformat())
    state = state_of(record, container="exited")
    assert state.inspected is not None
    return plan_one(manifest, replace(state, inspected=replace(state.inspected, exit_code=exit_code, oom_killed=oom)))


def test_a_crash_is_followed_by_a_restart_that_says_how_it_ended() -> None:
    assert said(crashed(exit_code=3)) == (Action.RESTART, Cause.CRASH, "it exited with 3")
    assert said(crashed(exit_code=137, oom=True)) == (
        Action.RESTART,
        Cause.CRASH,
        "it exited with 137 (killed for want of memory)",
    )


def test_a_container_that_cannot_be_inspected_any_more_is_restarted_too() -> None:
    state = replace(state_of(record_of(WRITER), container="exited"), inspected=None)
    assert said(plan_one(WRITER, state)) == (Action.RESTART, Cause.CRASH, "it exited")


def test_crashes_in_a_row_wait_longer_and_longer() -> None:
    waits = [crashed(n, age=timedelta(0), lifecycle={"maxCrashes": 9}).wait_s for n in range(1, 5)]
    assert waits == [0.75, 1.5, 3.0, 6.0]
    change = crashed(4, age=timedelta(seconds=5), lifecycle={"maxCrashes": 9})
    assert (change.action, change.wait_s, change.reason) == (Action.HOLD, 1.0, "it exited with 1; next start in 1s")
    assert crashed(4, age=timedelta(seconds=6), lifecycle={"maxCrashes": 9}).action is Action.RESTART


def test_after_max_crashes_it_stays_down_until_a_commit_changes_it() -> None:
    change = crashed(2, lifecycle={"maxCrashes": 2})
    why = "it exited with 1, 3 times in a row; stopped trying until a commit changes it"
    assert (*said(change), change.wait_s) == (Action.HOLD, Cause.CRASH, why, None)
    much_later = crashed(2, age=timedelta(days=30), lifecycle={"maxCrashes": 2, "ttl": "300d"})
    assert said(much_later) == (Action.HOLD, Cause.CRASH, why)


def test_a_commit_that_changes_a_stopped_agent_replaces_it() -> None:
    manifest = manifest_of(lifecycle={"maxCrashes": 2})
    stopped = state_of(record_of(manifest, crashes=2), container="exited")
    change = plan_one(manifest_of(lifecycle={"maxCrashes": 2}, description="mended"), stopped)
    assert said(change) == (Action.REPLACE, Cause.COMMIT, "changed in git")
    assert change.fields == (FieldChange(path="spec.description", after="mended"),)


def test_crashes_are_forgotten_once_it_has_run_for_long_enough() -> None:
    def running(seconds: float) -> Change:
        updated = (START - timedelta(seconds=seconds)).isoformat()
        return plan_one(WRITER, state_of(record_of(WRITER, crashes=2, updated_at=updated)))

    assert running(STABLE_S - 1).action is Action.KEEP
    change = running(STABLE_S + 1)
    assert said(change) == (Action.UPDATE, Cause.START, "no crash for 10m; back-off is over")
    assert (change.spec.phase, change.spec.crashes) == (Phase.EXECUTING, 0)


def test_without_auto_restart_it_stays_down() -> None:
    assert said(crashed(lifecycle={"autoRestart": False})) == (
        Action.HOLD,
        Cause.CRASH,
        "it exited with 1; autoRestart is off, so a commit must change it",
    )


# --- changes in git ---------------------------------------------------------------------------------------------------


def changed(before: dict[str, Any], after: dict[str, Any], **more: Any) -> Change:
    return plan_one(manifest_of(**after), state_of(record_of(manifest_of(**before))), **more)


@pytest.mark.parametrize(
    "after",
    [
        {"description": "x"},
        {"persona": "x"},
        {"role": "editor"},
        {"messaging": {"subscribes": ["a.b"]}},
        {"lifecycle": {"maxCrashes": 9}},
        {"drift": "report"},
        {"health": {"missed": 9}},
    ],
)
def test_what_the_container_does_not_carry_changes_the_record_only(after: dict[str, Any]) -> None:
    change = changed({}, after)
    assert said(change) == (Action.UPDATE, Cause.COMMIT, "changed in git; its container stays as it is")
    assert not change.disruptive


def test_limits_are_changed_in_place() -> None:
    change = changed({}, {"resources": {"cpus": 2, "memory": "64MiB", "pids": 50}})
    assert said(change) == (Action.UPDATE, Cause.COMMIT, "limits changed in git; changed in place")
    assert [f.path for f in change.fields] == ["spec.resources"]


@pytest.mark.parametrize(
    "after",
    [
        {"executor": {"type": "command", "argv": ["false"]}},
        {"env": {"A": "b"}},
        {"version": "2"},
        {"capabilities": ["docs.write", "x"]},
        {"resources": {"disk": "2GiB"}},
        {"resources": {"disk": "2GiB", "cpus": 2}},
        {"workspace": {"source": "repository"}},
        {"tasks": {"maxParallel": 2}},
        {"lifecycle": {"grace": "5s"}},
    ],
)
def test_what_the_container_carries_replaces_it(after: dict[str, Any]) -> None:
    change = changed({}, after)
    assert said(change) == (Action.REPLACE, Cause.COMMIT, "changed in git")
    assert change.fields
    assert not change.disruptive


def test_an_image_that_was_built_anew_replaces_the_container() -> None:
    change = changed({}, {}, image=Ok("sha256:base2"))
    assert said(change) == (Action.REPLACE, Cause.COMMIT, "image agents/base:1 is another one now")
    assert change.fields == (FieldChange(path="image id", before="sha256:base1", after="sha256:base2"),)
    assert change.spec.image_id == "sha256:base2"


def test_another_image_replaces_the_container_and_names_both() -> None:
    manifest = manifest_of(image="agents/other:1")
    change = plan_one(manifest, state_of(record_of(WRITER)))
    assert said(change) == (Action.REPLACE, Cause.COMMIT, "changed in git")
    assert change.fields == (FieldChange(path="spec.image", before="agents/base:1", after="agents/other:1"),)


@pytest.mark.parametrize("image", [Absent(), Unavailable(reason="no engine")])
def test_an_image_that_cannot_be_looked_up_changes_nothing_that_runs(image: Any) -> None:
    assert changed({}, {}, image=image).action is Action.KEEP


def test_a_release_that_adds_a_default_changes_nothing() -> None:
    manifest = WRITER
    older = json.loads(record_of(manifest).manifest)
    assert "tasks" not in older["spec"]
    assert plan_one(manifest, state_of(record_of(manifest))).action is Action.KEEP


# --- draining ---------------------------------------------------------------------------------------------------------


def draining(phase: Phase, age: timedelta = timedelta(0), busy: int = 2) -> Change:
    """A change of the command while tasks run."""
    record = record_of(WRITER, phase=phase, updated_at=(START - age).isoformat())
    manifest = manifest_of(version="2", lifecycle={"drainDeadline": "5m"})
    return plan_one(manifest, state_of(record), busy={"writer-0": busy} if busy else {})


def test_a_busy_instance_is_drained_before_it_is_replaced() -> None:
    first = draining(Phase.EXECUTING)
    assert said(first) == (Action.UPDATE, Cause.COMMIT, "changed in git: no new tasks, waiting for 2 running")
    assert (first.spec.phase, first.towards, first.disruptive) == (Phase.UPGRADING, Action.REPLACE, False)
    second = draining(Phase.UPGRADING, age=MINUTE)
    assert (second.action, second.reason, second.wait_s) == (Action.HOLD, "draining: 2 running, at most 4m more", 240.0)
    assert draining(Phase.UPGRADING, busy=0).action is Action.REPLACE


def test_after_the_drain_deadline_running_tasks_are_interrupted() -> None:
    change = draining(Phase.UPGRADING, age=5 * MINUTE)
    assert (change.action, change.disruptive) == (Action.REPLACE, True)


def test_an_instance_that_was_draining_goes_on_when_the_change_is_taken_back() -> None:
    record = record_of(WRITER, phase=Phase.UPGRADING)
    change = plan_one(WRITER, state_of(record), busy={"writer-0": 1})
    assert said(change) == (Action.UPDATE, Cause.START, "nothing to drain for any more")
    assert change.spec.phase is Phase.EXECUTING


def test_an_agent_that_left_git_is_removed_at_once_when_idle() -> None:
    (change,) = plan_all([], state_of(record_of(WRITER)))
    assert said(change) == (Action.REMOVE, Cause.COMMIT, "no longer in git")
    assert (change.name, change.instance, change.disruptive) == ("writer", "writer-0", False)


def test_an_agent_that_left_git_is_drained_first_when_busy() -> None:
    def leaving(phase: Phase, age: timedelta) -> Change:
        record = record_of(WRITER, phase=phase, updated_at=(START - age).isoformat())
        (change,) = plan_all([], state_of(record), busy={"writer-0": 1})
        return change

    first = leaving(Phase.EXECUTING, MINUTE)
    assert (first.action, first.towards, first.spec.phase) == (Action.UPDATE, Action.REMOVE, Phase.UPGRADING)
    second = leaving(Phase.UPGRADING, MINUTE)
    assert (second.action, second.towards, second.wait_s) == (Action.HOLD, Action.REMOVE, 540.0)
    third = leaving(Phase.UPGRADING, 10 * MINUTE)
    assert (third.action, third.disruptive, third.reason) == (
        Action.REMOVE,
        True,
        "no longer in git; its 1 tasks did not end in time",
    )


def test_a_container_that_does_not_run_needs_no_draining() -> None:
    (change,) = plan_all([], state_of(record_of(WRITER), container="exited"), busy={"writer-0": 1})
    assert change.action is Action.REMOVE


def test_fewer_replicas_remove_the_last_instances_first_of_all() -> None:
    states = [state_of(record_of(manifest_of(replicas=3), n)) for n in range(3)]
    changes = plan_all([manifest_of(replicas=1)], *states)
    assert [(c.instance, c.action) for c in changes] == [
        ("writer-1", Action.REMOVE),
        ("writer-2", Action.REMOVE),
        ("writer-0", Action.UPDATE),
    ]


def test_no_replicas_remove_all_instances() -> None:
    (change,) = plan_all([manifest_of(replicas=0)], state_of(record_of(WRITER)))
    assert change.action is Action.REMOVE


# --- time to live -----------------------------------------------------------------------------------------------------


def test_at_the_end_of_its_ttl_an_instance_is_made_anew() -> None:
    record = record_of(WRITER, created_at=(START - timedelta(hours=8, seconds=1)).isoformat())
    assert said(plan_one(WRITER, state_of(record))) == (Action.REPLACE, Cause.TTL, "its ttl of 8h is over")
    busy = plan_one(WRITER, state_of(record), busy={"writer-0": 1})
    assert (busy.action, busy.cause, busy.towards) == (Action.UPDATE, Cause.TTL, Action.REPLACE)
    young = replace(record, created_at=(START - timedelta(hours=8)).isoformat())
    assert plan_one(WRITER, state_of(young)).action is Action.KEEP


# --- drift ------------------------------------------------------------------------------------------------------------


def drifted(path: str, value: object, mode: str | None = None, phase: Phase = Phase.EXECUTING, hub: str = "") -> Change:
    """Somebody changed one compared field by hand."""
    manifest = manifest_of(drift=mode)
    state = state_of(record_of(manifest, phase=phase))
    assert state.inspected is not None
    fields = json.loads(json.dumps(state.inspected.fields))
    *parents, last = path.split(".")
    inner = fields
    for key in parents:
        inner = inner[key]
    inner[last] = value
    spec = HubSpec.model_validate({"loop": {"drift": {"agents": hub}}}) if hub else None
    return plan_one(manifest, replace(state, inspected=replace(state.inspected, fields=fields)), hub=spec)


def test_limits_changed_by_hand_are_set_back_in_place() -> None:
    change = drifted("limits.pids", 7)
    assert said(change) == (Action.UPDATE, Cause.DRIFT, "changed by hand: limits.pids")
    assert change.fields == (FieldChange(path="limits.pids", before=7, after=100),)


def test_anything_else_changed_by_hand_replaces_the_container() -> None:
    change = drifted("working_dir", "/")
    assert said(change) == (Action.REPLACE, Cause.DRIFT, "changed by hand: working_dir")
    assert change.disruptive


def test_drift_may_be_reported_only_or_ignored_by_agent_or_for_all() -> None:
    reported = drifted("limits.pids", 7, mode="report")
    assert (reported.action, reported.cause) == (Action.HOLD, Cause.DRIFT)
    assert reported.reason == "changed by hand: limits.pids (drift is only reported)"
    assert drifted("limits.pids", 7, mode="ignore").action is Action.KEEP
    assert drifted("limits.pids", 7, hub="report").action is Action.HOLD
    assert drifted("limits.pids", 7, mode="correct", hub="ignore").action is Action.UPDATE


def test_drift_that_is_only_reported_does_not_keep_an_instance_from_its_handshake() -> None:
    change = drifted("limits.pids", 7, mode="report", phase=Phase.HANDSHAKING)
    assert said(change) == (Action.UPDATE, Cause.START, "handshake completed")


def test_what_cannot_be_inspected_has_not_drifted() -> None:
    assert plan_one(WRITER, replace(state_of(record_of(WRITER)), inspected=None)).action is Action.KEEP


# --- handshake --------------------------------------------------------------------------------------------------------


def handshaking(age_s: float, hello: dict[str, object] | None, **more: Any) -> Change:
    updated = (START - timedelta(seconds=age_s)).isoformat()
    record = record_of(WRITER, phase=Phase.HANDSHAKING, updated_at=updated)
    state = replace(state_of(record), report=InstanceReport(instance="writer-0", hello=hello))
    return plan_one(WRITER, state, **more)


HELLO = {"version": "1", "capabilities": ["docs.write"], "executor": "command", "agentd": "1", "pid": 7}


def test_a_handshake_that_matches_makes_it_ready() -> None:
    assert said(handshaking(1, HELLO)) == (Action.UPDATE, Cause.START, "handshake completed")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"version": "2"}, "version"),
        ({"capabilities": ["docs.write", "root"]}, "capabilities"),
        ({"capabilities": "docs.write"}, "capabilities"),
        ({"executor": "http"}, "executor"),
        ({"version": None, "executor": []}, "version, executor"),
    ],
)
def test_a_handshake_that_does_not_match_is_held_and_named(wrong: dict[str, object], named: str) -> None:
    change = handshaking(1, {**HELLO, **wrong})
    assert said(change) == (
        Action.HOLD,
        Cause.START,
        f"its handshake does not match the manifest in {named}",
    )


def test_without_a_handshake_it_is_waited_for_and_then_restarted() -> None:
    waiting = handshaking(10, None)
    assert (*said(waiting), waiting.wait_s) == (Action.HOLD, Cause.START, "waiting for its handshake", 20.0)
    change = handshaking(31, None)
    assert said(change) == (Action.RESTART, Cause.CRASH, "no handshake within 30s")


def test_while_the_router_is_away_nobody_is_restarted_for_want_of_a_handshake() -> None:
    change = handshaking(31, None, router=None)
    assert (change.action, change.wait_s) == (Action.HOLD, 0.05)


def test_the_order_of_what_was_observed_does_not_matter() -> None:
    states = [state_of(record_of(manifest_of(name))) for name in ("b", "a", "c")]
    desired = desired_of(manifest_of("c"))
    there, back = (
        plan(desired, AgentStates(instances={s.name: s for s in order}), facts_of())
        for order in (states, list(reversed(states)))
    )
    assert there == back
