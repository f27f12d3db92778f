"""What a pass reads, and what planning is told of it."""

from pathlib import Path

from reconciler.core.condition import Mode
from reconciler.core.reading import Ok, Unavailable
from reconciler.kinds import KINDS
from reconciler.loop.observe import Observed, observe
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, task_text


def read(fleet: FakeFleet) -> Observed:
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    return observe(desired, KINDS, fleet.world, Mode.DEGRADED, fleet.router.report())


def test_facts_are_values_of_this_moment(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    fleet.agents.holding.add("changelog")
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text()})
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    facts = read(fleet).facts
    assert (facts.now, facts.boottime, facts.boot_id) == (fleet.clock.now(), fleet.clock.boottime(), "boot-1")
    assert (facts.mode, facts.runtime, facts.sandboxed) == (Mode.DEGRADED, "fake", True)
    assert facts.busy == {"writer-0": 1}
    assert facts.router is not None
    assert facts.fleet["writer"].instances[0].ready
    fleet.end_hub()


def test_what_cannot_be_read_is_unavailable_and_the_fleet_unknown(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    fleet.runtime.go_down("no engine")
    observed = read(fleet)
    assert isinstance(observed.readings["agent"], Unavailable)
    assert {k for k, r in observed.readings.items() if isinstance(r, Ok)} == {
        "schema",
        "policy",
        "router",
        "egress",
        "task",
    }
    assert not observed.facts.is_fleet_known
    fleet.end_hub()
