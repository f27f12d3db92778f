"""What the router lacks: to run, its configuration, or the right set of instances."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.kinds.kind import Facts
from reconciler.kinds.router.plan import RouterWork, plan
from reconciler.kinds.router.state import RouterState
from reconciler.ports import InstanceReport, RouterReport
from tests.fakes.clock import START
from tests.fakes.desired import desired_of
from tests.fakes.texts import agent_text

FACTS = Facts(now=START, boottime=0.0, boot_id="b")
DESIRED = desired_of({"agents.d/a.yaml": agent_text()})
DIGEST = DESIRED.route["digest"]
ENTRIES: dict[str, Mapping[str, Any]] = {"writer-0": {"agent": "writer", "digest": "1:w"}}
REPORT = RouterReport(
    pid=1,
    epoch="e",
    code_version="1",
    config_digest=DIGEST,
    policy_revision="",
    inbox_seq=0,
    instances={"writer-0": InstanceReport(instance="writer-0", digest="1:w")},
)


def plan_one(
    report: RouterReport | None, entries: Mapping[str, Mapping[str, Any]] = ENTRIES, was: bool = True
) -> Change:
    (change,) = plan(DESIRED, RouterState(report=report, entries=entries, was_running=was), FACTS)
    assert change.unit == "router/router"
    return change


def test_a_router_that_does_not_run_is_started_with_everything() -> None:
    change = plan_one(None)
    assert (change.action, change.cause, change.reason) == (Action.CREATE, Cause.CRASH, "it is not running")
    assert change.spec == RouterWork(start=True, config=DESIRED.route, put=ENTRIES)
    assert plan_one(None, was=False).cause is Cause.START


def test_a_router_that_is_as_it_should_be_is_kept() -> None:
    change = plan_one(REPORT)
    assert (change.action, change.reason) == (Action.KEEP, "as in git")


def test_a_router_of_other_code_is_restarted_with_everything() -> None:
    change = plan_one(replace(REPORT, code_version="0.1.0+aaa", next_version="0.2.0+bbb", config_digest="1:old"))
    assert (change.action, change.cause) == (Action.RESTART, Cause.START)
    assert change.reason == "its code is version 0.1.0+aaa, this is 0.2.0+bbb"
    assert change.fields == (FieldChange(path="code", before="0.1.0+aaa", after="0.2.0+bbb"),)
    assert change.spec == RouterWork(start=True, config=DESIRED.route, put=ENTRIES)
    assert not change.disruptive


def test_a_changed_configuration_is_swapped_in() -> None:
    change = plan_one(replace(REPORT, config_digest="1:old"))
    assert (change.action, change.cause) == (Action.UPDATE, Cause.COMMIT)
    assert change.fields == (FieldChange(path="configuration", before="1:old", after=DIGEST),)
    assert change.spec == RouterWork(config=DESIRED.route)


def test_instances_that_differ_from_the_record_are_put_right_as_drift() -> None:
    instances = {
        "writer-0": InstanceReport(instance="writer-0", digest="1:old"),
        "stray-0": InstanceReport(instance="stray-0", digest="1:s"),
    }
    entries = {**ENTRIES, "reader-0": {"agent": "reader", "digest": "1:r"}}
    change = plan_one(replace(REPORT, instances=instances), entries)
    assert (change.action, change.cause) == (Action.UPDATE, Cause.DRIFT)
    assert change.reason == "2 instances are not registered as recorded; 1 registered instances have no record"
    assert change.spec == RouterWork(put=entries, remove=("stray-0",))
    assert [f.path for f in change.fields] == ["instances.reader-0", "instances.writer-0", "instances.stray-0"]
