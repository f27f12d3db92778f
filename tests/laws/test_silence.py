"""Silence of the whole fleet is nobody's crash: whatever stood still, no instance is started again for it.

The control is the same fleet with one daemon that hangs while all else works.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import hub_text
from tests.laws.fleets import FEW, TASKS, RandomFleet, fleets

CALL_AGAIN_S = 6.0
"""What daemons need to call again, once they can; less than the lease."""

OUTAGES = (
    "router hangs",
    "router dies",
    "router cannot be started",
    "router lost one",
    "machine sleeps",
    "hub is away",
    "engine is away",
)


@contextmanager
def busy_fleet(revision: RandomFleet) -> Iterator[FakeFleet]:
    """A hub over this revision, settled; its tasks are begun and do not end by themselves."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = FakeFleet(Path(folder))
        fleet.agents.holding.update(TASKS)
        patient = {
            f: text + ('  timeout: "1d"\n' if f.startswith("tasks.d/") else "") for f, text in revision.files.items()
        }
        fleet.commit(patient, hub=hub_text(loop={"concurrency": 1}, router={"lease": "20s"}))
        fleet.watch(20, are_calling=True)
        yield fleet
        fleet.end_hub()


def stand_still(fleet: FakeFleet, outage: str, seconds: float) -> None:
    """Nobody can call for so long, or nobody can tell what runs."""
    match outage:
        case "router hangs":
            fleet.router.unreadable = "it does not answer"
            fleet.watch(seconds)
            fleet.router.unreadable = ""
        case "router dies":
            fleet.router.die()
        case "router cannot be started":
            fleet.router.die()
            fleet.router.fail_next("start", times=1000)
            fleet.watch(seconds)
            fleet.router.fail_next("start", times=-1000)
        case "router lost one":
            for name in sorted(fleet.router.instances)[:1]:
                lose_registration(fleet, name, seconds)
        case "machine sleeps":
            fleet.clock.advance(seconds)
        case "hub is away":
            fleet.end_hub()
            fleet.clock.advance(seconds)
            fleet.start_hub()
        case "engine is away":
            fleet.runtime.go_down()
            for _ in range(int(seconds / 3)):
                fleet.watch(1)
                for name in fleet.router.instances:
                    fleet.router.beat(name)
            fleet.runtime.come_back()


def lose_registration(fleet: FakeFleet, name: str, seconds: float) -> None:
    """For so long the router does not take it back; then it needs a little to call again."""
    del fleet.router.instances[name]
    fleet.router.fail_next("put_instance", times=1000)
    fleet.agents.silent.add(name)
    fleet.watch(seconds, are_calling=True)
    fleet.router.fail_next("put_instance", times=-1000)
    while name not in fleet.router.instances:
        fleet.watch(1, are_calling=True)
    fleet.watch(CALL_AGAIN_S, are_calling=True)
    fleet.agents.silent.discard(name)


@FEW
@given(
    fleets(), st.lists(st.tuples(st.sampled_from(OUTAGES), st.floats(1, 200)), min_size=1, max_size=5), st.booleans()
)
def test_a_fleet_that_nobody_could_hear_is_never_restarted(
    revision: RandomFleet, outages: list[tuple[str, float]], is_looked_at_first: bool
) -> None:
    """Wherever passes fall: during the outage, in the seconds before daemons call again, or not at all."""
    with busy_fleet(revision) as fleet:
        before = {name: (r.container_id, r.crashes) for name, r in fleet.instances().items()}
        calls = len(fleet.runtime.calls)
        for outage, seconds in outages:
            stand_still(fleet, outage, seconds)
            fleet.watch(CALL_AGAIN_S if is_looked_at_first else 1.0)
            fleet.watch(20, are_calling=True)
        assert {name: (r.container_id, r.crashes) for name, r in fleet.instances().items()} == before
        touching = [c for c in fleet.runtime.calls[calls:] if c[0] in ("create", "start", "stop", "remove")]
        assert touching == []
        assert {t.generation for t in fleet.tasks()} <= {0, 1}


@FEW
@given(fleets(), st.integers(0, 8))
def test_control_one_daemon_that_hangs_is_restarted_and_only_that_one(revision: RandomFleet, which: int) -> None:
    with busy_fleet(revision) as fleet:
        names = sorted(fleet.instances())
        assume(names)
        hanging = names[which % len(names)]
        fleet.agents.silent.add(hanging)
        fleet.watch(300, are_calling=True)
        assert {r.name for r in fleet.instances().values() if r.crashes} == {hanging}
