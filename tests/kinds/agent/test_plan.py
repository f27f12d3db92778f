"""What has to happen to an instance, question by question: each transition, and why."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change, Concern, FieldChange
from reconciler.kinds.agent.instance import STABLE_S
from reconciler.kinds.agent.plan import plan
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.kind import LOOK_S
from reconciler.ports import ContainerSummary, InstanceReport
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


def test_crashes_in_a_row_wait_longer_and_longer_and_not_all_for_the_same_time() -> None:
    waits = [crashed(n, age=timedelta(0), lifecycle={"maxCrashes": 9}).wait_s or 0 for n in range(1, 5)]
    assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(waits))
    assert len({wait / 2**n for n, wait in enumerate(waits)}) == 4
    change = crashed(4, age=timedelta(seconds=3), lifecycle={"maxCrashes": 9})
    assert (change.action, change.reason.split(";")[0]) == (Action.HOLD, "it exited with 1")
    assert change.wait_s == waits[3] - 3
    assert crashed(4, age=timedelta(seconds=8), lifecycle={"maxCrashes": 9}).action is Action.RESTART


def test_after_max_crashes_it_is_isolated() -> None:
    change = crashed(2, lifecycle={"maxCrashes": 2})
    assert said(change) == (Action.QUARANTINE, Cause.CRASH, "it exited with 1, 3 times in a row")
    assert change.spec.phase is Phase.QUARANTINED


def test_one_that_crashes_now_and_then_is_isolated_after_as_many_crashes_as_its_threshold() -> None:
    manifest = manifest_of(lifecycle={"maxCrashes": 9, "quarantineThreshold": 4})

    def after(all_crashes: int) -> Change:
        return plan_one(manifest, state_of(record_of(manifest, all_crashes=all_crashes), container="exited"))

    assert after(3).action is Action.RESTART
    why = "it exited, crash number 5 since it was made (quarantineThreshold 4)"
    assert said(after(4)) == (Action.QUARANTINE, Cause.CRASH, why)


def test_one_that_was_killed_says_so_but_not_by_whom() -> None:
    assert crashed(exit_code=137).reason == "it exited with 137 (killed, by somebody or by the kernel)"


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


# --- time to live -----------------------------------------------------------------------------------------------------


def test_at_the_end_of_its_ttl_an_instance_is_made_anew() -> None:
    record = record_of(WRITER, created_at=(START - timedelta(hours=8, seconds=1)).isoformat())
    assert said(plan_one(WRITER, state_of(record))) == (Action.REPLACE, Cause.TTL, "its ttl of 8h is over")
    busy = plan_one(WRITER, state_of(record), busy={"writer-0": 1})
    assert (busy.action, busy.cause, busy.towards) == (Action.UPDATE, Cause.TTL, Action.REPLACE)
    young = replace(record, created_at=(START - timedelta(hours=8)).isoformat())
    assert plan_one(WRITER, state_of(young)).action is Action.KEEP


# --- handshake --------------------------------------------------------------------------------------------------------


def handshaking(
    age_s: float, hello: dict[str, object] | None, crashes: int = 0, last_denial: str = "", **more: Any
) -> Change:
    updated = (START - timedelta(seconds=age_s)).isoformat()
    record = record_of(WRITER, phase=Phase.HANDSHAKING, updated_at=updated, crashes=crashes)
    state = replace(state_of(record), report=InstanceReport(instance="writer-0", hello=hello, last_denial=last_denial))
    return plan_one(WRITER, state, **more)


HELLO = {"version": "1", "capabilities": ["docs.write"], "executor": "command", "agentd": "1", "pid": 7}


def test_a_handshake_that_matches_makes_it_ready() -> None:
    assert said(handshaking(1, HELLO)) == (Action.UPDATE, Cause.START, "handshake completed")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"version": "2"}, 'version is "2", not "1"'),
        ({"capabilities": ["docs.write", 7]}, 'capabilities is ["docs.write", 7], not ["docs.write"]'),
        ({"capabilities": "docs.write"}, 'capabilities is "docs.write", not ["docs.write"]'),
        ({"executor": "http"}, 'executor is "http", not "command"'),
        ({"version": None, "executor": []}, 'version is null, not "1"; executor is [], not "command"'),
    ],
)
def test_a_handshake_that_does_not_match_is_held_and_the_difference_is_a_condition(
    wrong: dict[str, object], named: str
) -> None:
    change = handshaking(1, {**HELLO, **wrong})
    why = f"its handshake does not match the manifest: {named}"
    assert said(change) == (Action.HOLD, Cause.START, why)
    message = f"writer-0: {why}; it gets no work"
    assert change.concern == Concern(subject="agent/writer-0", type="Degraded", message=message)


def test_without_a_handshake_it_is_waited_for_and_then_restarted() -> None:
    waiting = handshaking(10, None)
    assert (*said(waiting), waiting.wait_s) == (Action.HOLD, Cause.START, "waiting for its handshake", LOOK_S)
    assert handshaking(29, None).wait_s == 1.0
    change = handshaking(31, None)
    assert said(change) == (Action.RESTART, Cause.CRASH, "no handshake within 30s")


def test_what_the_router_told_an_instance_is_quoted_where_its_handshake_is_missed() -> None:
    denial = "invalid_payload at schema: /version is missing"
    for seconds, action, why in (
        (10, Action.HOLD, "waiting for its handshake"),
        (31, Action.RESTART, "no handshake within 30s"),
    ):
        change = handshaking(seconds, None, last_denial=denial)
        assert (change.action, change.reason) == (action, f"{why} (the router told it: {denial})")


def test_a_handshake_that_fails_each_time_is_a_crash_like_others() -> None:
    change = handshaking(31, None, crashes=3)
    assert said(change) == (Action.QUARANTINE, Cause.CRASH, "no handshake within 30s, 4 times in a row")
    assert said(handshaking(31, HELLO, crashes=3)) == (Action.UPDATE, Cause.START, "handshake completed")


def test_while_the_router_is_away_nobody_is_restarted_for_want_of_a_handshake() -> None:
    change = handshaking(31, None, router=None)
    assert (*said(change), change.wait_s) == (Action.HOLD, Cause.START, "waiting for its handshake", LOOK_S)


def test_a_router_that_is_back_gets_the_time_of_a_handshake_before_anybody_is_restarted() -> None:
    change = handshaking(31, None, listening_s=20.0)
    why = "no handshake within 30s; started again in 10s unless it calls"
    assert (*said(change), change.wait_s) == (Action.HOLD, Cause.CRASH, why, LOOK_S)


def test_the_order_of_what_was_observed_does_not_matter() -> None:
    states = [state_of(record_of(manifest_of(name))) for name in ("b", "a", "c")]
    desired = desired_of(manifest_of("c"))
    there, back = (
        plan(desired, AgentStates(instances={s.name: s for s in order}), facts_of())
        for order in (states, list(reversed(states)))
    )
    assert there == back
