"""What is read of the fleet: record, container, inspection and report side by side, by the container's own name."""

from pathlib import Path

import pytest

from reconciler.core.reading import Ok, Unavailable
from reconciler.kinds.agent.observe import observe
from reconciler.kinds.agent.state import InstanceState
from reconciler.settings import HubSpec
from tests.fakes.fleet import FakeFleet, put_beside
from tests.fakes.texts import agent_text


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    made = FakeFleet(tmp_path)
    made.commit({"agents.d/a.yaml": agent_text()})
    made.settle()
    return made


def states(fleet: FakeFleet) -> dict[str, InstanceState]:
    fleet.inspections.forget_all()
    reading = observe(fleet.world, fleet.router.report(), HubSpec())
    assert isinstance(reading, Ok)
    return dict(reading.value.instances)


def test_all_sides_of_an_instance_are_put_together(fleet: FakeFleet) -> None:
    state = states(fleet)["writer-0"]
    assert state.record is not None
    assert state.record.phase == "executing"
    assert state.container is not None
    assert state.container.id == state.record.container_id
    assert state.inspected is not None
    assert state.report is not None
    assert state.sealed


def test_an_engine_that_does_not_answer_is_not_an_empty_one(fleet: FakeFleet) -> None:
    fleet.runtime.go_down("connection refused")
    assert observe(fleet.world, fleet.router.report(), HubSpec()) == Unavailable(reason="list: connection refused")


def test_a_router_that_does_not_answer_leaves_the_reports_out(fleet: FakeFleet) -> None:
    fleet.router.die()
    state = states(fleet)["writer-0"]
    assert state.report is None
    assert state.container is not None


def test_a_record_without_a_container_and_a_container_without_a_record_are_both_there(fleet: FakeFleet) -> None:
    fleet.runtime.remove_by_hand("writer-0")
    put_beside(fleet, "other-0", {})
    found = states(fleet)
    assert found["writer-0"].container is None
    assert found["other-0"].record is None
    assert not found["other-0"].sealed


def test_a_copy_of_a_container_with_all_its_labels_is_not_taken_for_it(fleet: FakeFleet) -> None:
    before = states(fleet)["writer-0"]
    put_beside(fleet, "copy", dict(before.container.labels))  # type: ignore[union-attr]
    found = states(fleet)
    assert found["writer-0"] == before
    assert not found["copy"].sealed
    report = fleet.run()
    assert report.plan.pending == ()
    assert fleet.containers() == {"writer-0": "running", "copy": "running"}
