"""What wakes the loop: files, events of the engine, hints of the router; each carries no data."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.loop.inspections import Inspections
from reconciler.loop.wake import Wake, follow_engine, follow_router, watch_files
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    made = FakeFleet(tmp_path)
    made.commit({"agents.d/a.yaml": agent_text()})
    made.settle()
    yield made
    made.runtime.close()
    made.end_hub()


def test_a_bell_remembers_that_it_rang_and_forgets_when_it_was_heard() -> None:
    wake = Wake()
    assert not wake.wait(0)
    wake.ring()
    wake.ring()
    assert wake.wait(0)
    assert not wake.wait(0)


def test_an_event_of_the_engine_rings_and_makes_its_container_be_looked_at_again(
    fleet: FakeFleet, stop: threading.Event
) -> None:
    wake, inspections = Wake(), Inspections(fleet.runtime)
    inspections.get("writer-0", fleet.instances()["writer-0"].container_id)
    thread = follow_engine(fleet.runtime, inspections, wake, stop)
    fleet.runtime.change_field("writer-0", "limits.pids", 7)
    assert wake.wait(60)
    assert inspections.names() == []
    stop.set()
    fleet.runtime.close()
    thread.join(60)
    assert not thread.is_alive()


def test_a_lost_stream_of_events_rings_and_makes_everything_be_looked_at_again(
    fleet: FakeFleet, stop: threading.Event
) -> None:
    wake, inspections = Wake(), Inspections(fleet.runtime)
    follow_engine(fleet.runtime, inspections, wake, stop)
    inspections.get("writer-0", fleet.instances()["writer-0"].container_id)
    fleet.runtime.lose_events()
    assert wake.wait(60)
    deadline = 60.0
    while inspections.names() and deadline > 0:
        wake.wait(0.05)
        deadline -= 0.05
    assert inspections.names() == []


def test_a_ring_until_heard_ends_when_somebody_listened() -> None:
    wake = Wake()
    ringing = threading.Thread(target=wake.ring_until_heard, args=(600.0,))
    ringing.start()
    assert wake.wait(60)
    ringing.join(60)
    assert not ringing.is_alive()
    assert not wake.wait(0)
    wake.ring_until_heard(0)
    assert wake.wait(0)


def test_a_hint_of_the_router_rings_and_so_does_its_silence(fleet: FakeFleet, stop: threading.Event) -> None:
    wake = Wake()
    follow_router(fleet.router, wake, stop)
    assert not wake.wait(0.2)
    fleet.router.hint()
    assert wake.wait(60)
    fleet.router.die()
    assert wake.wait(60)


def is_heard(folder: Path, wake: Wake) -> bool:
    """Whether a new file there rings; several, because those before the watch began are not seen."""
    for number in range(300):
        (folder / f"{number}.yaml").write_text("x")
        if wake.wait(0.2):
            return True
    return False


def test_a_changed_file_rings_also_in_a_folder_that_comes_later(tmp_path: Path, stop: threading.Event) -> None:
    wake = Wake()
    folder = tmp_path / "inbox"
    thread = watch_files(lambda: [str(folder)], wake, stop)
    folder.mkdir()
    assert is_heard(folder, wake)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_a_folder_that_is_removed_rings_and_is_watched_again_when_it_is_back(
    tmp_path: Path, stop: threading.Event
) -> None:
    wake, folder = Wake(), tmp_path / "inbox"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    thread = watch_files(lambda: [str(tmp_path / "other"), str(folder)], wake, stop)
    assert is_heard(folder, wake)
    folder.rename(tmp_path / "gone")
    folder.mkdir()
    assert wake.wait(60)
    while wake.wait(1.5):
        pass
    assert is_heard(folder, wake)
    stop.set()
    thread.join(60)
