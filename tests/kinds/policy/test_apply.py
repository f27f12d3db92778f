"""The bundle of a revision answers whole, in the hub and in the router; the last good one until then."""

import pytest

from reconciler.kinds.policy.observe import ACTIVE
from tests.fakes.fleet import FakeFleet, actions
from tests.fakes.texts import agent_text


def rego(reason: str) -> dict[str, str]:
    rule = f'decision := {{"allow": true, "reasons": ["{reason}"]}}'
    return {"policies/task.rego": f"package hub.task\n\nimport rego.v1\n\n{rule}\n", "agents.d/a.yaml": agent_text()}


@pytest.fixture
def fleet(fleet: FakeFleet) -> FakeFleet:
    fleet.commit(rego("one"))
    fleet.settle()
    return fleet


def test_the_same_bundle_answers_in_the_hub_and_reaches_the_router(fleet: FakeFleet) -> None:
    policy = fleet.router.config["policy"]
    assert fleet.policy.revision == policy["digest"] == fleet.store.get_meta(ACTIVE)
    assert list(policy["modules"]) == ["policies/task.rego"]


def test_an_engine_that_cannot_take_a_bundle_keeps_the_last_one_until_it_can(fleet: FakeFleet) -> None:
    before = fleet.policy.revision
    fleet.commit(rego("two"))
    fleet.look()
    fleet.policy.is_away = True
    report = fleet.run()
    assert [d.change.unit for d in report.failed] == ["policy/policies"]
    assert fleet.policy.revision == fleet.store.get_meta(ACTIVE) == before
    fleet.policy.is_away = False
    fleet.clock.advance(5)
    fleet.settle()
    assert fleet.policy.revision not in ("", before)


def test_a_hub_that_starts_anew_loads_its_engine(fleet: FakeFleet) -> None:
    before = fleet.policy.revision
    fleet.restart()
    assert fleet.policy.revision == ""
    assert actions(fleet.run(), "policy") == {"policies": "update"}
    assert fleet.policy.revision == before


def test_policies_that_left_git_answer_no_more(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    assert (fleet.policy.revision, fleet.store.get_meta(ACTIVE)) == ("", "")
    assert fleet.router.config["policy"] is None
