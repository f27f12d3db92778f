"""Which way an instance reaches the router: as the operator says, and another one is another container."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.change import Action, Cause
from reconciler.identity.authority import open_authority
from reconciler.kinds.agent.instance import NO_NETWORK
from reconciler.kinds.agent.plan import plan
from reconciler.kinds.agent.state import AgentStates
from reconciler.kinds.route_entry import instance_entry, recorded_address
from reconciler.settings import OperatorSpec
from tests.fakes.fleet import FLEET, FakeFleet, actions, change_of
from tests.fakes.texts import agent_text, task_text
from tests.kinds.agent.build import desired_of, facts_of, manifest_of, record_of, state_of

LISTEN = "tcp://10.0.0.1:8421"


def operator(*agents: str, listen: str | None = LISTEN) -> OperatorSpec:
    return OperatorSpec.model_validate({"agentPlane": {"listen": listen, "agents": agents}})


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    made = FakeFleet(tmp_path, operator("far"))
    made.commit({"agents.d/far.yaml": agent_text("far"), "agents.d/near.yaml": agent_text("near")})
    made.settle()
    return made


def operate(fleet: FakeFleet, operator: OperatorSpec) -> None:
    """The hub is started again with other settings."""
    fleet.operator = operator
    fleet.restart()


def ways(fleet: FakeFleet) -> dict[str, str]:
    return {name: recorded_address(record.fields) for name, record in fleet.instances().items()}


def test_an_agent_on_the_list_is_told_an_address_and_whom_to_trust(fleet: FakeFleet) -> None:
    assert ways(fleet) == {"far-0": "10.0.0.1:8421", "near-0": ""}
    secrets = fleet.folder / "run" / "secrets"
    ca = secrets / "far-0" / "hub-ca.pem"
    assert ca.read_bytes() == open_authority(fleet.folder, FLEET, fleet.clock.now()).pem
    assert stat.S_IMODE(ca.stat().st_mode) == 0o400
    assert ca.stat().st_uid == (secrets / "far-0" / "agent-token").stat().st_uid
    assert not (secrets / "near-0" / "hub-ca.pem").exists()
    registered = {name: instance.digest for name, instance in fleet.router.instances.items()}
    assert registered == {name: instance_entry(record)["digest"] for name, record in fleet.instances().items()}


def test_the_pass_after_it_keeps_everything(fleet: FakeFleet) -> None:
    assert actions(fleet.run()) == {"far-0": "keep", "near-0": "keep"}
    fleet.restart()
    assert set(actions(fleet.run()).values()) == {"keep"}


@pytest.mark.parametrize(
    ("settings", "after"),
    [
        (operator("near"), {"far-0": "", "near-0": "10.0.0.1:8421"}),
        (operator("*"), {"far-0": "10.0.0.1:8421", "near-0": "10.0.0.1:8421"}),
        (operator("far", listen="tcp://10.0.0.2:8421"), {"far-0": "10.0.0.2:8421", "near-0": ""}),
        (OperatorSpec(), {"far-0": "", "near-0": ""}),
    ],
    ids=["another", "both", "elsewhere", "none"],
)
def test_other_settings_replace_the_containers_that_they_concern(
    fleet: FakeFleet, settings: OperatorSpec, after: dict[str, str]
) -> None:
    before, ids = ways(fleet), {name: r.container_id for name, r in fleet.instances().items()}
    operate(fleet, settings)
    moved = {name for name in after if before[name] != after[name]}
    report = fleet.run()
    assert {name for name, action in actions(report).items() if action == "replace"} == moved
    changes = [c for c in report.plan.changes if c.instance in moved]
    assert {c.cause for c in changes} == {Cause.OPERATOR}
    assert {f.path for c in changes for f in c.fields} == {"agent plane"}
    fleet.settle()
    assert ways(fleet) == after
    assert {name for name, r in fleet.instances().items() if r.container_id != ids[name]} == moved
    assert actions(fleet.run()) == dict.fromkeys(after, "keep")


def test_a_running_task_is_waited_for_first(fleet: FakeFleet) -> None:
    fleet.agents.holding = {"count"}
    fleet.commit(
        {
            "agents.d/far.yaml": agent_text("far"),
            "agents.d/near.yaml": agent_text("near"),
            "tasks.d/t.yaml": task_text("count", agent="far"),
        }
    )
    for _ in range(4):
        fleet.run()
        fleet.agents.step()
    operate(fleet, OperatorSpec())
    reason = change_of(fleet.run(), "agent/far-0").reason
    assert reason == "the operator has it reach the router another way: no new tasks, waiting for 1 running"
    assert actions(fleet.run())["far-0"] == "hold"
    fleet.agents.holding = set()
    fleet.settle()
    assert ways(fleet)["far-0"] == ""


def test_limits_are_not_changed_in_place_while_the_way_is_another(fleet: FakeFleet) -> None:
    operate(fleet, OperatorSpec())
    fleet.commit(
        {
            "agents.d/far.yaml": agent_text("far", resources={"cpus": 0.25, "memory": "64MiB"}),
            "agents.d/near.yaml": agent_text("near"),
        }
    )
    assert actions(fleet.run())["far-0"] == "replace"
    fleet.settle()
    assert ways(fleet)["far-0"] == ""


def test_an_engine_whose_containers_have_no_network_leaves_such_an_agent_alone_and_says_why() -> None:
    manifest = manifest_of("far")
    record = record_of(manifest)
    desired = replace(desired_of(manifest), plane=operator("far").agent_plane)
    for states in ({}, {record.name: state_of(record)}):
        (change,) = plan(desired, AgentStates(instances=states), facts_of(runtime="docker"))
        assert (change.action, change.cause, change.reason) == (Action.HOLD, Cause.OPERATOR, NO_NETWORK)
    (change,) = plan(desired, AgentStates(instances={}), facts_of(runtime="process"))
    assert change.action is Action.CREATE
