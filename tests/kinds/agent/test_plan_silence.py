"""What follows when an instance runs and does not call: not ready first, a crash later, and never for others' faults."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change
from reconciler.kinds.agent.instance import HANGING_GRACE_S
from reconciler.kinds.agent.state import Phase
from reconciler.kinds.kind import LOOK_S
from reconciler.ports import InstanceReport
from reconciler.settings import HubSpec
from tests.fakes.clock import START
from tests.kinds.agent.build import BOOT_S, ROUTER, manifest_of, plan_one, record_of, state_of

LIMIT_S = 90.0
"""By the defaults: three times three heartbeats of 10s."""


def at(ago_s: float) -> datetime:
    return START - timedelta(seconds=ago_s)


def silent(
    seconds: float,
    *,
    age_s: float = 300.0,
    started_s: float = 300.0,
    record: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **more: Any,
) -> Change:
    """What follows when the instance last called so long ago. Ages are those of its last transition and start."""
    manifest = manifest_of(**(spec or {}))
    made = record_of(manifest, updated_at=at(age_s).isoformat(), created_at=at(3600).isoformat(), **(record or {}))
    state = state_of(made, report=InstanceReport(instance="writer-0", last_seen=BOOT_S - seconds))
    assert state.inspected is not None
    inspected = replace(state.inspected, started_at=at(started_s).isoformat())
    return plan_one(manifest, replace(state, inspected=inspected), **more)


def said(change: Change) -> tuple[Action, Cause, str]:
    return change.action, change.cause, change.reason


def test_an_instance_that_misses_fewer_heartbeats_than_it_may_is_kept() -> None:
    assert silent(30).action is Action.KEEP


def test_one_that_missed_more_is_watched_closely() -> None:
    change = silent(40)
    why = "no heartbeat for 40s; started again in 50s unless it calls"
    assert (*said(change), change.wait_s) == (Action.HOLD, Cause.CRASH, why, LOOK_S)
    assert silent(LIMIT_S - 1).wait_s == 1.0


def test_one_that_is_silent_for_too_long_is_started_again_as_after_a_crash_and_gets_little_time_to_end() -> None:
    change = silent(LIMIT_S)
    assert said(change) == (Action.RESTART, Cause.CRASH, "no heartbeat for 90s")
    assert change.disruptive
    assert change.spec.grace_s == HANGING_GRACE_S
    assert silent(LIMIT_S, spec={"lifecycle": {"grace": "1s"}}).spec.grace_s == 1.0


@pytest.mark.parametrize(
    "lacking",
    [
        {"router": replace(ROUTER, uptime_s=80.0)},
        {"listening_s": 80.0},
        {"age_s": 80.0},
        {"started_s": 80.0},
    ],
    ids=["router up", "router listening", "executing", "container running"],
)
def test_it_is_not_started_again_until_all_who_take_part_were_there_for_so_long(lacking: dict[str, Any]) -> None:
    assert silent(200).action is Action.RESTART
    change = silent(200, **lacking)
    assert change.action is Action.HOLD
    assert "started again in 10s unless it calls" in change.reason


def test_what_a_clock_says_that_was_set_back_does_not_keep_it_from_being_started_again() -> None:
    assert silent(200, started_s=-3600).action is Action.RESTART


def test_without_a_router_nobody_is_silent() -> None:
    assert silent(9999, router=None).action is Action.KEEP


def test_one_that_the_router_does_not_know_cannot_call() -> None:
    manifest = manifest_of()
    assert plan_one(manifest, state_of(record_of(manifest), report=None)).action is Action.KEEP


def test_one_that_never_called_since_the_router_started_is_silent_since_then() -> None:
    def after(uptime_s: float) -> Change:
        manifest = manifest_of()
        record = record_of(manifest, updated_at=at(300).isoformat())
        state = state_of(record, report=InstanceReport(instance="writer-0"))
        return plan_one(manifest, state, router=replace(ROUTER, uptime_s=uptime_s))

    assert after(30).action is Action.KEEP
    assert said(after(40))[2] == "it has not called since the router started; started again in 50s unless it calls"
    assert after(90).action is Action.RESTART


@pytest.mark.parametrize(
    ("lease", "health", "limit_s"),
    [
        ("5m", {"heartbeat": "10s", "missed": 3}, 300.0),
        ("30s", {"heartbeat": "20s", "missed": 2}, 120.0),
        ("1s", {"heartbeat": "100ms", "missed": 1}, 10.0),
    ],
    ids=["lease", "heartbeats", "a few seconds to call again"],
)
def test_how_long_it_may_be_silent_follows_lease_and_heartbeats(
    lease: str, health: dict[str, Any], limit_s: float
) -> None:
    hub = HubSpec.model_validate({"router": {"lease": lease}})
    assert silent(limit_s - 0.1, age_s=900, started_s=900, spec={"health": health}, hub=hub).action is Action.HOLD
    assert silent(limit_s, age_s=900, started_s=900, spec={"health": health}, hub=hub).action is Action.RESTART


def test_crashes_in_a_row_wait_longer_and_longer() -> None:
    slow = {"lifecycle": {"maxCrashes": 20}}
    change = silent(120, age_s=120, record={"crashes": 9}, spec=slow)
    assert (change.action, change.cause) == (Action.HOLD, Cause.CRASH)
    assert change.reason.startswith("no heartbeat for 2m; next start in ")
    assert silent(300, age_s=300, record={"crashes": 9}, spec=slow).action is Action.RESTART


def test_after_max_crashes_it_is_isolated_unless_it_calls_in_time() -> None:
    soon = silent(40, record={"crashes": 3})
    why = "no heartbeat for 40s; isolated in 50s unless it calls"
    assert (*said(soon), soon.wait_s) == (Action.HOLD, Cause.CRASH, why, LOOK_S)
    change = silent(200, record={"crashes": 3})
    assert said(change) == (Action.QUARANTINE, Cause.CRASH, "no heartbeat for 200s, 4 times in a row")
    assert change.spec.grace_s == HANGING_GRACE_S


def test_without_auto_restart_it_is_only_said() -> None:
    change = silent(200, spec={"lifecycle": {"autoRestart": False}})
    assert (change.action, change.wait_s) == (Action.HOLD, None)
    assert change.reason == "no heartbeat for 200s; autoRestart is off, so a commit must change it"


def test_drift_that_is_only_reported_does_not_hide_it() -> None:
    manifest = manifest_of(drift="report")
    record = record_of(manifest, updated_at=at(300).isoformat())
    state = state_of(record, report=InstanceReport(instance="writer-0", last_seen=BOOT_S - 200))
    state = replace(state, record=replace(record, fields='{"limits": {"pids": 1}}'))
    assert plan_one(manifest, state).action is Action.RESTART
    assert "drift is only reported" in plan_one(manifest, replace(state, report=None)).reason


@pytest.mark.parametrize("phase", [Phase.HANDSHAKING, Phase.ACTIVATING, Phase.UPGRADING])
def test_only_one_that_executes_is_expected_to_call(phase: Phase) -> None:
    assert "no heartbeat" not in silent(200, record={"phase": phase}).reason
