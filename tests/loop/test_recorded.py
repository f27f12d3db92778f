"""Planning against the record alone: what a hub would do if everything is as it was last recorded."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.core.change import Action
from reconciler.core.plan import Plan
from reconciler.kinds.policy.observe import OPA_WAS_RUNNING
from reconciler.loop.recorded import plan_against_record
from reconciler.store import records
from tests.fakes.desired import desired_of
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, hub_text, task_text

FILES = {
    "agents.d/a.yaml": agent_text(),
    "agents.d/b.yaml": agent_text("reader"),
    "tasks.d/t.yaml": task_text(),
    "schemas/messages/a.b.schema.json": "{}",
    "policies/task.rego": 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n',
}


@pytest.fixture
def fleet(fleet: FakeFleet) -> FakeFleet:
    fleet.commit(FILES)
    fleet.settle()
    return fleet


def planned(fleet: FakeFleet, files: Mapping[str, str], *, is_descendant: bool = True) -> Plan:
    desired = desired_of({"hub.yaml": hub_text(), **files}, revision="r2")
    return plan_against_record(desired, fleet.store, fleet.clock, is_descendant=is_descendant)


def changes(plan: Plan) -> dict[str, Action]:
    return {c.unit: c.action for c in plan.changes if c.action is not Action.KEEP}


def test_the_applied_revision_has_nothing_to_do(fleet: FakeFleet) -> None:
    plan = planned(fleet, FILES)
    assert plan.compared_with == "state"
    assert changes(plan) == {}


def test_it_says_what_a_hub_then_does(fleet: FakeFleet) -> None:
    files = {
        "agents.d/a.yaml": agent_text(version="2"),
        "agents.d/c.yaml": agent_text("new"),
        "tasks.d/t.yaml": task_text(prompt="again"),
    }
    plan = planned(fleet, files)
    assert changes(plan) == {
        "schema/a.b": Action.REMOVE,
        "policy/policies": Action.REMOVE,
        "router/router": Action.UPDATE,
        "agent/reader-0": Action.REMOVE,
        "agent/writer-0": Action.REPLACE,
        "agent/new-0": Action.CREATE,
        "task/changelog": Action.CREATE,
    }
    fleet.commit(files)
    done = {c.unit: c.action for c in fleet.run().plan.pending}
    assert done == changes(plan)


def test_an_instance_that_the_record_lacks_is_not_called_new(fleet: FakeFleet) -> None:
    records.delete_instance(fleet.store, "writer-0")
    plan = planned(fleet, {**FILES, "agents.d/c.yaml": agent_text("added")})
    found = {c.unit: (c.action, c.reason) for c in plan.changes if c.action is Action.CREATE}
    assert found == dict.fromkeys(["agent/writer-0", "agent/added-0"], (Action.CREATE, "not in the record"))


def test_the_servers_of_policies_are_taken_for_what_was_recorded(fleet: FakeFleet) -> None:
    def opa(hub: str) -> list[Action]:
        desired = desired_of({"hub.yaml": hub, **FILES}, revision="r2")
        plan = plan_against_record(desired, fleet.store, fleet.clock, is_descendant=True)
        return [c.action for c in plan.changes if c.unit == "policy/opa"]

    managed = hub_text(policy={"opa": {"managed": True}})
    assert (opa(hub_text()), opa(managed)) == ([], [Action.CREATE])
    fleet.store.set_meta(OPA_WAS_RUNNING, "yes")
    assert (opa(hub_text()), opa(managed)) == ([Action.REMOVE], [Action.KEEP])


def test_the_guard_looks_at_it_too(fleet: FakeFleet) -> None:
    assert [r.guard for r in planned(fleet, {}).refused] == ["empty-set"]
    assert [r.guard for r in planned(fleet, FILES, is_descendant=False).refused] == ["not-a-descendant"]


def test_a_state_that_is_new_is_compared_with_as_empty(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    assert set(changes(planned(fleet, FILES)).values()) == {Action.CREATE}
    fleet.end_hub()
