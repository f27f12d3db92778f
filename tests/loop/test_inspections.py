"""Inspections: asked once, again after an event, and by the sweep where nobody gave one."""

import threading
from pathlib import Path

import pytest

from reconciler.loop.inspections import Inspections, Sweep
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    made = FakeFleet(tmp_path)
    made.commit({"agents.d/a.yaml": agent_text()})
    made.settle()
    return made


def asked(fleet: FakeFleet) -> int:
    return fleet.runtime.calls.count(("inspect", "writer-0"))


def container_id(fleet: FakeFleet) -> str:
    return fleet.instances()["writer-0"].container_id


def test_a_container_is_inspected_once_until_something_happened_to_it(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    before = asked(fleet)
    first = inspections.get("writer-0", container_id(fleet))
    assert inspections.get("writer-0", container_id(fleet)) is first
    assert asked(fleet) == before + 1
    inspections.forget("writer-0")
    inspections.forget("unknown")
    assert inspections.get("writer-0", container_id(fleet)) == first
    inspections.forget_all()
    inspections.get("writer-0", container_id(fleet))
    assert asked(fleet) == before + 3


def test_what_was_known_of_another_container_of_that_name_is_not_told(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    assert inspections.get("writer-0", container_id(fleet)) is not None
    assert inspections.get("writer-0", "another id") is None
    assert inspections.get("nobody-0", "id") is None


def test_an_engine_that_is_away_is_asked_again_later(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    fleet.runtime.go_down()
    assert inspections.get("writer-0", container_id(fleet)) is None
    fleet.runtime.come_back()
    assert inspections.get("writer-0", container_id(fleet)) is not None


def test_looking_again_says_whether_anything_changed(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    assert inspections.look_again("writer-0")
    assert not inspections.look_again("writer-0")
    fleet.runtime.change_field("writer-0", "limits.pids", 7)
    assert inspections.look_again("writer-0")
    found = inspections.get("writer-0", container_id(fleet))
    assert found is not None
    assert found.fields["limits"]["pids"] == 7
    fleet.runtime.go_down()
    assert not inspections.look_again("writer-0")
    fleet.runtime.come_back()
    fleet.runtime.remove_by_hand("writer-0")
    assert inspections.look_again("writer-0")
    assert inspections.names() == []


def test_the_sweep_finds_a_change_that_no_event_told_of(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    inspections.get("writer-0", container_id(fleet))
    woken, stop = threading.Event(), threading.Event()
    sweep = Sweep(inspections, lambda: 0.02, woken.set, stop)
    sweep.start()
    fleet.runtime.change_field("writer-0", "limits.pids", 7)
    assert woken.wait(10)
    stop.set()
    sweep.join(10)
    assert not sweep.is_alive()
