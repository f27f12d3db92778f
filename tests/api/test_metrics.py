"""What a hub can be measured by: text that Prometheus reads, with everything that the fleet is."""

import re
from datetime import UTC, datetime

import pytest

from reconciler.api.metrics import Measured, render
from reconciler.api.operations import HubOperations
from reconciler.core.condition import Condition, Mode
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.ports import Tally
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, task_text

LINE = re.compile(r'reconciler_[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)*\})? [0-9.e+-]+')
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def values(text: str) -> dict[str, float]:
    """Value by name and labels; fails where a line is not in the format."""
    out: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            assert LINE.fullmatch(line), line
            name, _, value = line.rpartition(" ")
            assert name not in out
            out[name] = float(value)
    return out


def test_labels_are_escaped() -> None:
    condition = Condition(subject='a"\\\n', type="T", status=True, reason="R", message="m", since=NOW)
    text = render(Measured(revision="r", mode=Mode.NORMAL, conditions=[condition]))
    assert 'reconciler_condition{subject="a\\"\\\\\\n",type="T",reason="R"} 1' in text.splitlines()
    values(text)


def test_each_family_is_described_once_and_ends_with_a_line_break() -> None:
    text = render(Measured(revision="r", mode=Mode.DEGRADED))
    names = re.findall(r"^# TYPE (\S+) (?:gauge|counter)$", text, re.MULTILINE)
    assert len(names) == len(set(names)) == text.count("# HELP ")
    assert text.endswith("\n")
    assert values(text)['reconciler_mode{mode="degraded"}'] == 1
    assert values(text)['reconciler_mode{mode="normal"}'] == 0


@pytest.fixture
def hub(fleet: FakeFleet) -> HubOperations:
    hub = Hub(fleet.loop, fleet.world, KINDS, fleet.inspections)
    return HubOperations(hub, fleet.loop, fleet.world, lambda _drain: None)


def test_a_hub_tells_of_agents_tasks_messages_trust_and_what_is_used(fleet: FakeFleet, hub: HubOperations) -> None:
    commit = fleet.commit({"agents.d/a.yaml": agent_text(replicas=2), "tasks.d/t.yaml": task_text()})
    fleet.settle()
    fleet.router.tallies["writer"] = Tally(accepted=7, denied=2, floods=1)
    fleet.runtime.use_memory("writer-0", 64 * 2**20)
    fleet.runtime.use_cpu("writer-0", 1.5)
    for name in ("writer-0", "writer-1"):
        fleet.inspections.sample(name)
    fleet.clock.advance(6)
    fleet.run()
    found = values(hub.metrics())
    assert found[f'reconciler_revision_info{{revision="{commit}"}}'] == 1
    assert found['reconciler_instances{agent="writer",phase="executing"}'] == 2
    assert found['reconciler_tasks{state="succeeded"}'] == 1
    assert found['reconciler_messages_total{agent="writer",outcome="accepted"}'] == 7
    assert found['reconciler_messages_total{agent="writer",outcome="denied"}'] == 2
    assert found['reconciler_floods_total{agent="writer"}'] == 1
    assert found['reconciler_trust{agent="writer"}'] == pytest.approx(0.87, abs=0.02)
    assert found['reconciler_cpu_seconds_total{instance="writer-0",agent="writer"}'] == 1.5
    assert found['reconciler_memory_bytes{instance="writer-0",agent="writer"}'] == 64 * 2**20
    assert found['reconciler_io_bytes_total{instance="writer-0",agent="writer",direction="read"}'] == 0


def test_a_source_that_is_away_grows_old(fleet: FakeFleet, hub: HubOperations) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    fleet.source.fail("gone")
    for _ in range(3):
        fleet.clock.advance(100)
        fleet.run()
    assert values(hub.metrics())["reconciler_source_age_seconds"] > 300
    fleet.source.fail(None)
    fleet.run()
    assert values(hub.metrics())["reconciler_source_age_seconds"] < 1


def test_what_is_gone_is_not_measured(fleet: FakeFleet, hub: HubOperations) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    fleet.inspections.sample("writer-0")
    assert list(hub.usage()["instances"]) == ["writer-0"]
    fleet.runtime.remove_by_hand("writer-0")
    fleet.inspections.sample("writer-0")
    assert hub.usage()["instances"] == {}


def test_without_a_router_and_before_the_first_pass_it_answers_too(fleet: FakeFleet, hub: HubOperations) -> None:
    values(hub.metrics())
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    fleet.router.die()
    assert "reconciler_messages_total{" not in hub.metrics()


def test_a_store_that_cannot_be_written_is_seen_in_status_and_mode(fleet: FakeFleet, hub: HubOperations) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    fleet.loop.note_store_fault("disk full")
    found = values(hub.metrics())
    assert found['reconciler_condition{subject="hub",type="StoreUnwritable",reason="Failed"}'] == 1
    assert found['reconciler_mode{mode="degraded"}'] == 1
    assert [c["type"] for c in hub.status()["conditions"]] == ["StoreUnwritable"]
