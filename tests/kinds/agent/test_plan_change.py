"""What follows when a manifest changed in git, or a container by hand; and how running tasks are spared."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.kinds.agent.state import Phase
from reconciler.ports import InstanceReport
from reconciler.settings import HubSpec
from tests.fakes.clock import START
from tests.kinds.agent.build import (
    BOOT_S,
    manifest_of,
    plan_all,
    plan_one,
    record_of,
    state_of,
)

WRITER = manifest_of()
MINUTE = timedelta(minutes=1)


def said(change: Change) -> tuple[Action, Cause, str]:
    return change.action, change.cause, change.reason


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
    assert said(change) == (Action.REPLACE, Cause.COMMIT, "image agents/other:1 is another one now")
    assert change.fields == (
        FieldChange(path="spec.image", before="agents/base:1", after="agents/other:1"),
        FieldChange(path="image id", before="sha256:base1", after="sha256:other"),
    )


@pytest.mark.parametrize("image", [Absent(), Unavailable(reason="no engine")])
def test_an_image_that_cannot_be_looked_up_changes_nothing_that_runs(image: Any) -> None:
    assert changed({}, {}, image=image).action is Action.KEEP


def test_a_release_that_adds_a_default_changes_nothing() -> None:
    manifest = WRITER
    older = json.loads(record_of(manifest).manifest)
    assert "tasks" not in older["spec"]
    assert plan_one(manifest, state_of(record_of(manifest))).action is Action.KEEP


# --- an image that is not there ---------------------------------------------------------------------------------------

MISSING = "image agents/missing:1 is not on this engine; build or load it (make image); until then it runs as it is"


def without_image(phase: Phase = Phase.EXECUTING, age_s: float = 60, **more: Any) -> Change:
    """A commit names an image that is not there, and another version, while an instance of the old one runs."""
    updated_at = (START - timedelta(seconds=age_s)).isoformat()
    state = state_of(record_of(WRITER, phase=phase, updated_at=updated_at))
    return plan_one(manifest_of(image="agents/missing:1", version="2"), replace(state, **more), busy={"writer-0": 2})


def test_nothing_is_drained_for_an_image_that_is_not_there() -> None:
    change = without_image()
    assert said(change) == (Action.HOLD, Cause.COMMIT, MISSING)
    assert [f.path for f in change.fields] == ["spec.image", "spec.version"]
    assert (change.towards, change.wait_s, change.disruptive) == (None, None, False)


def test_an_instance_that_drained_already_works_again_when_its_image_is_gone() -> None:
    change = without_image(phase=Phase.UPGRADING)
    assert said(change) == (Action.UPDATE, Cause.START, "nothing to drain for any more")


def test_at_the_end_of_its_ttl_an_instance_whose_image_is_gone_runs_on() -> None:
    record = record_of(WRITER, created_at="2025-12-01T00:00:00+00:00")
    change = plan_one(WRITER, state_of(record), image=Absent(), busy={"writer-0": 1})
    assert (change.action, change.cause) == (Action.HOLD, Cause.TTL)
    assert change.reason == MISSING.replace("missing", "base")


def test_an_instance_that_waits_for_an_image_shakes_hands_by_the_manifest_it_was_made_from() -> None:
    change = without_image(phase=Phase.HANDSHAKING, age_s=1)
    assert said(change) == (Action.UPDATE, Cause.START, "handshake completed")


def test_an_instance_that_hangs_while_it_waits_for_an_image_is_restarted() -> None:
    silent = InstanceReport(instance="writer-0", last_seen=BOOT_S - 400)
    change = without_image(age_s=600, report=silent)
    assert (change.action, change.cause) == (Action.RESTART, Cause.CRASH)


def test_a_commit_does_not_wait_for_the_back_off_of_what_it_mends() -> None:
    crashed = record_of(WRITER, crashes=9)
    waiting = plan_one(WRITER, state_of(crashed, container="exited"))
    assert waiting.action in (Action.HOLD, Action.QUARANTINE)
    mended = plan_one(manifest_of(version="2"), state_of(crashed, container="exited"))
    assert (mended.action, mended.cause) == (Action.REPLACE, Cause.COMMIT)


def test_a_change_in_place_needs_no_image() -> None:
    change = changed({}, {"resources": {"pids": 50}}, image=Absent())
    assert said(change) == (Action.UPDATE, Cause.COMMIT, "limits changed in git; changed in place")


def test_drift_is_left_while_an_image_is_waited_for_because_its_record_is_of_the_old_manifest() -> None:
    inspected = state_of(record_of(WRITER)).inspected
    assert inspected is not None
    fields = {**inspected.fields, "limits": {"pids": 7}}
    assert without_image(inspected=replace(inspected, fields=fields)).reason == MISSING


# --- a record that was changed by hand --------------------------------------------------------------------------------

MISFIT = "the digest in its record does not fit the manifest in it"


def test_a_digest_that_was_changed_in_the_record_is_no_commit() -> None:
    change = plan_one(WRITER, state_of(record_of(WRITER, spec_digest="1:forged")))
    assert said(change) == (Action.UPDATE, Cause.DRIFT, f"{MISFIT}; its container stays as it is")
    assert change.fields == ()
    ended = plan_one(WRITER, state_of(record_of(WRITER, spec_digest="1:forged"), container="exited"))
    assert said(ended) == (Action.REPLACE, Cause.DRIFT, MISFIT)


def test_a_change_in_git_is_one_whatever_digest_the_record_has() -> None:
    change = plan_one(manifest_of(version="2"), state_of(record_of(WRITER, spec_digest="1:forged")))
    assert said(change) == (Action.REPLACE, Cause.COMMIT, "changed in git")


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


def test_an_instance_that_goes_while_its_agent_stays_says_from_how_many_to_how_many() -> None:
    state = state_of(record_of(manifest_of(replicas=3), 2))
    scaling = FieldChange(path="spec.replicas", before=3, after=2)
    idle = plan_all([manifest_of(replicas=2)], state)[0]
    assert said(idle) == (Action.REMOVE, Cause.COMMIT, "git wants 2 of writer")
    assert (idle.fields, idle.is_scaling) == ((scaling,), True)
    busy = plan_all([manifest_of(replicas=2)], state, busy={"writer-2": 1})[0]
    assert busy.reason == "git wants 2 of writer: no new tasks, waiting for 1 running"
    assert busy.fields == (FieldChange(path="phase", before="executing", after="upgrading"), scaling)
    assert (busy.towards, busy.is_scaling) == (Action.REMOVE, True)
    (gone,) = plan_all([], state)
    assert not gone.is_scaling


def test_no_replicas_remove_all_instances() -> None:
    (change,) = plan_all([manifest_of(replicas=0)], state_of(record_of(WRITER)))
    assert change.action is Action.REMOVE


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
