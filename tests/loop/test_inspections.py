"""Inspections: asked once, again after an event, and by the sweep where nobody gave one."""

import threading
import time
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
    assert woken.wait(60)
    stop.set()
    sweep.join(60)
    assert not sweep.is_alive()


# --- what containers use ----------------------------------------------------------------------------------------------


def test_of_what_a_container_uses_the_last_look_is_kept_and_processors_since_the_one_before(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    fleet.runtime.use_memory("writer-0", 5)
    inspections.sample("writer-0")
    first = inspections.samples()["writer-0"]
    assert (first.usage.memory_bytes, first.cpus) == (5, 0.0)
    fleet.runtime.use_cpu("writer-0", 1000.0)
    inspections.sample("writer-0")
    second = inspections.samples()["writer-0"]
    assert second.cpus == pytest.approx(1000.0 / (second.at_s - first.at_s))


def test_a_container_that_was_started_anew_is_measured_anew(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    fleet.runtime.use_cpu("writer-0", 1000.0)
    inspections.sample("writer-0")
    fleet.runtime.use_cpu("writer-0", -999.0)
    inspections.sample("writer-0")
    assert inspections.samples()["writer-0"].cpus == 0.0


def test_an_engine_that_is_away_leaves_the_last_look_and_a_container_that_is_gone_leaves_none(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    inspections.sample("writer-0")
    fleet.runtime.go_down()
    inspections.sample("writer-0")
    assert list(inspections.samples()) == ["writer-0"]
    fleet.runtime.come_back()
    fleet.runtime.crash("writer-0")
    inspections.sample("writer-0")
    assert inspections.samples() == {}


def test_the_sweep_looks_at_what_is_used_and_forgets_who_is_gone(fleet: FakeFleet) -> None:
    inspections = Inspections(fleet.runtime)
    inspections.get("writer-0", container_id(fleet))
    inspections.sample("writer-0")
    inspections.forget_samples_but(["other-0"])
    assert inspections.samples() == {}
    stop = threading.Event()
    sweep = Sweep(inspections, lambda: 0.02, lambda: None, stop)
    sweep.start()
    try:
        end = time.monotonic() + 60
        while not inspections.samples():
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        stop.set()
        sweep.join()
