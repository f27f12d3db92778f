"""Which settings of `hub.yaml` are named where they lead to another configuration, by each way to plan."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.change import Change
from reconciler.loop.base import plan_against_base
from reconciler.loop.recorded import Assent, plan_against_record
from tests.fakes.clock import START
from tests.fakes.desired import desired_of
from tests.fakes.fleet import FakeFleet, change_of
from tests.fakes.texts import agent_text, hub_text

AGENTS = {"agents.d/a.yaml": agent_text()}
BEFORE = hub_text(router={"lease": "30s"})
AFTER = hub_text(router={"lease": "45s"}, orchestrator={"allowCrossAgent": False, "maxParallelTasks": 2})


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    made = FakeFleet(tmp_path)
    made.commit(AGENTS, hub=BEFORE)
    made.settle()
    return made


def by_engine(fleet: FakeFleet) -> Change:
    fleet.commit(AGENTS, hub=AFTER)
    return change_of(fleet.look(), "router/router")


def by_record(fleet: FakeFleet) -> Change:
    desired = desired_of({**AGENTS, "hub.yaml": AFTER}, revision="r2")
    plan = plan_against_record(desired, fleet.store, fleet.clock, is_descendant=True)
    return next(c for c in plan.changes if c.unit == "router/router")


def by_base(_fleet: FakeFleet) -> Change:
    base, desired = (desired_of({**AGENTS, "hub.yaml": hub}) for hub in (BEFORE, AFTER))
    plan = plan_against_base(desired, base, Assent(), START)
    return next(c for c in plan.changes if c.unit == "router/router")


@pytest.mark.parametrize("plan", [by_engine, by_record, by_base])
def test_the_settings_that_changed_are_named_and_no_others(
    fleet: FakeFleet, plan: Callable[[FakeFleet], Change]
) -> None:
    change = plan(fleet)
    assert change.reason == "its configuration changed; in hub.yaml: orchestrator.allowCrossAgent, router.lease"
    found = {f.path: (f.before, f.after) for f in change.fields if f.path != "configuration"}
    assert found == {
        "hub.yaml orchestrator.allowCrossAgent": (True, False),
        "hub.yaml router.lease": (30.0, 45.0),
    }


def test_what_comes_from_manifests_alone_names_no_setting(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text(role="reader")}, hub=BEFORE)
    assert change_of(fleet.look(), "router/router").reason == "its configuration changed"


def test_the_reason_is_in_the_audit_log_and_many_settings_are_cut(fleet: FakeFleet) -> None:
    settings = {"lease": "40s", "ttl": "5m", "maxBody": "2MiB", "mailbox": {"messages": 9, "bytes": "1MiB"}}
    fleet.commit(AGENTS, hub=hub_text(router=settings))
    fleet.run()
    (row,) = [e for e in fleet.audit() if e.kind == "router" and e.action == "update" and e.outcome == "applied"]
    assert row.reason.startswith(
        "its configuration changed; in hub.yaml: router.lease, router.mailbox.bytes, router.mailbox.messages, "
        "router.maxBody, …"
    )


def test_providers_are_named_for_the_way_out(fleet: FakeFleet) -> None:
    gpu = {"name": "gpu", "type": "ollama", "exposure": "private", "models": [{"name": "qwen3"}]}
    fleet.commit(AGENTS, hub=hub_text(providers=[gpu]))
    fleet.settle()
    fleet.commit(AGENTS, hub=hub_text(providers=[gpu], egress={"parallel": 3}))
    change = change_of(fleet.look(), "egress/egress")
    assert change.reason == "its configuration changed; in hub.yaml: egress.parallel"
