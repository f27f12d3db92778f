"""The pass when something is broken: conditions, modes, back-off, and what stalls."""

from dataclasses import replace

import pytest

from reconciler.api.agents import order_agent
from reconciler.core.caller import caller_of_uid
from reconciler.core.condition import Mode
from reconciler.core.outcome import Applied, Failed, Skipped
from reconciler.errors import StoreError
from reconciler.kinds import KINDS
from reconciler.loop.apply import TRANSIENT_CAP_S
from reconciler.loop.run import Loop, PassReport
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, actions, change_of, told, transitions
from tests.fakes.texts import agent_text, hub_text, task_text

GOOD = {"agents.d/a.yaml": agent_text()}


# --- conditions and modes ---------------------------------------------------------------------------------------------


def test_a_condition_changes_once_and_is_audited_once(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.runtime.go_down("connection refused")
    since = fleet.clock.now()
    for _ in range(3):
        report = fleet.run()
    assert [(c.type, c.since) for c in report.conditions] == [("RuntimeUnavailable", since)]
    fleet.runtime.come_back()
    fleet.run()
    fleet.run()
    assert transitions(fleet) == [("RuntimeUnavailable", "now true"), ("RuntimeUnavailable", "over")]
    stored = records.conditions(fleet.store)[("hub", "RuntimeUnavailable")]
    assert (stored.status, stored.reason) == (False, "Resolved")


def test_a_condition_that_goes_on_for_another_reason_keeps_its_time(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.runtime.go_down("connection refused")
    (first,) = fleet.run().conditions
    fleet.runtime.go_down("timed out")
    (second,) = fleet.run().conditions
    assert "timed out" in second.message
    assert second.since == first.since


def live(fleet: FakeFleet, passes: int) -> PassReport:
    for _ in range(passes):
        report = fleet.run()
        fleet.agents.step()
    return report


def test_a_condition_says_by_which_revision_and_by_what_of_it_it_was_found(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "agents.d/b.yaml": agent_text("b")})
    fleet.settle()
    order_agent(fleet.world, "b-0", "quarantine", caller_of_uid(0), "r")
    live(fleet, 4)
    digest = records.instances(fleet.store)["b-0"].spec_digest
    newer = fleet.commit({"agents.d/a.yaml": agent_text(version="2"), "agents.d/b.yaml": agent_text("b")})
    report = live(fleet, 12)
    found = [(c.type, c.observed_revision, c.input_digest) for c in report.conditions]
    assert found == [("Quarantined", newer, digest)]
    assert transitions(fleet) == [("Quarantined", "now true")]
    assert records.conditions(fleet.store)[("agent/b-0", "Quarantined")] == report.conditions[0]


def test_what_is_wrong_with_the_newest_revision_names_that_one(fleet: FakeFleet) -> None:
    good = fleet.commit(GOOD)
    fleet.settle()
    bad = fleet.commit({"agents.d/a.yaml": "nonsense"})
    (condition,) = fleet.run().conditions
    assert (condition.type, condition.observed_revision) == ("ConfigInvalid", bad)
    fleet.commit(GOOD)
    fleet.settle()
    over = records.conditions(fleet.store)[("hub", "ConfigInvalid")]
    assert over.status is False
    assert over.observed_revision not in ("", good, bad)


def test_a_condition_survives_a_restart_of_the_hub_without_a_second_transition(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.runtime.go_down()
    report = fleet.run()
    fleet.restart()
    assert fleet.run().conditions == report.conditions
    assert transitions(fleet) == [("RuntimeUnavailable", "now true")]


def test_while_the_runtime_is_away_nothing_is_planned_for_agents_and_the_hub_is_degraded(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()})
    for _ in range(2):
        fleet.run()
        fleet.agents.step()
    fleet.runtime.go_down()
    fleet.commit(
        {"agents.d/a.yaml": agent_text(version="2"), "tasks.d/t.yaml": task_text(), "tasks.d/u.yaml": task_text("u")}
    )
    report = fleet.run()
    assert report.mode is Mode.DEGRADED
    assert actions(report) == {}
    skipped = {d.change.unit: d.outcome for d in report.done if isinstance(d.outcome, Skipped)}
    assert set(skipped) >= {"task/u"}
    assert all("degraded" in o.reason for o in skipped.values())
    fleet.runtime.come_back()
    fleet.settle()
    assert set(fleet.states().values()) == {"succeeded"}


def test_a_degraded_hub_makes_and_replaces_no_agents_but_goes_on_removing(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "agents.d/b.yaml": agent_text("reader")})
    fleet.settle()
    fleet.router.die()
    fleet.router.fail_next("start", 2)
    assert told(fleet.run()) == {}
    fleet.clock.advance(5)
    fleet.commit({"agents.d/a.yaml": agent_text(version="2"), "agents.d/c.yaml": agent_text("new")})
    report = fleet.run()
    assert told(report).keys() == {"RouterDown"}
    outcomes = {d.change.unit: d.outcome for d in report.done}
    assert isinstance(outcomes["router/router"], Failed)
    assert isinstance(outcomes["agent/writer-0"], Skipped)
    assert isinstance(outcomes["agent/new-0"], Skipped)
    assert not isinstance(outcomes["agent/reader-0"], Skipped)
    fleet.clock.advance(10)
    fleet.settle()
    assert sorted(fleet.containers()) == ["new-0", "writer-0"]


def test_looking_does_not_count_as_an_attempt_to_start_the_router(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.router.die()
    fleet.router.fail_next("start", 2)
    for _ in range(3):
        assert told(fleet.look()) == {}
    assert told(fleet.run()) == {}
    assert told(fleet.look()) == {}
    fleet.clock.advance(5)
    assert told(fleet.run()).keys() == {"RouterDown"}
    assert told(fleet.look()).keys() == {"RouterDown"}


def test_a_router_that_died_is_started_again_in_the_same_pass(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.router.die()
    report = fleet.run()
    assert change_of(report, "router/router").reason == "it is not running"
    assert fleet.router.is_running
    assert list(fleet.router.instances) == ["writer-0"]
    fleet.agents.step()
    report = fleet.settle()
    assert told(report) == {}
    assert transitions(fleet) == []


def test_a_router_whose_log_is_full_is_a_condition_that_degrades(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.router.is_log_full = True
    report = fleet.run()
    assert told(report).keys() == {"LogUnwritable"}
    assert report.mode is Mode.DEGRADED
    fleet.router.is_log_full = False
    assert fleet.run().mode is Mode.NORMAL


def test_conditions_of_adapters_are_told_too(fleet: FakeFleet) -> None:
    faults = [("PolicyFallback", "EngineAway", "embedded: it ended")]
    fleet.loop = Loop(fleet.world, KINDS, faults=lambda: faults)
    fleet.commit(GOOD)
    assert told(fleet.run()) == {"PolicyFallback": "embedded: it ended"}
    faults.clear()
    assert told(fleet.run()) == {}


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_change_that_fails_backs_off_and_the_others_go_on(fleet: FakeFleet) -> None:
    fleet.runtime.refuse_next("create", "no space", times=1)
    fleet.commit({**GOOD, "agents.d/b.yaml": agent_text("reader")})
    report = fleet.run()
    outcomes = {d.change.unit: d.outcome for d in report.done if d.change.kind == "agent"}
    assert outcomes["agent/reader-0"] == Failed(reason="create reader-0: no space", retryable=False)
    assert isinstance(outcomes["agent/writer-0"], Applied)


def test_what_cannot_be_answered_is_tried_again_later_and_later(fleet: FakeFleet) -> None:
    fleet.runtime.fail_next("create", times=99)
    fleet.commit(GOOD)
    tried: list[float] = []
    for _ in range(60):
        report = fleet.run()
        if report.failed:
            tried.append(fleet.clock.boottime())
        else:
            waiting = str(report.done)
    gaps = [after - before for before, after in zip(tried, tried[1:], strict=False)]
    assert len(tried) in range(6, 9)
    assert gaps == sorted(gaps)
    assert gaps[-1] > 3
    assert "next attempt in" in waiting


def test_an_outage_is_waited_out_however_often_it_fails_the_same_way(fleet: FakeFleet) -> None:
    fleet.runtime.fail_next("create", "timed out", times=10)
    fleet.commit(GOOD, hub=hub_text(loop={"concurrency": 1, "stalledAfter": 2}))
    for _ in range(10):
        assert not fleet.run().is_stuck
        fleet.clock.advance(TRANSIENT_CAP_S)
    fleet.settle()
    assert fleet.runtime.calls.count(("create", "writer-0")) == 11


@pytest.mark.parametrize("remedy", ["commit", "image"])
def test_after_enough_identical_failures_a_unit_is_stalled_until_its_input_changes(
    fleet: FakeFleet, remedy: str
) -> None:
    hub = hub_text(loop={"concurrency": 1, "stalledAfter": 3})
    fleet.commit({"agents.d/a.yaml": agent_text(image="agents/late:1")}, hub=hub)
    for _ in range(20):
        report = fleet.run()
        fleet.clock.advance(400)
    (done,) = [d for d in report.done if d.change.unit == "agent/writer-0"]
    assert isinstance(done.outcome, Skipped)
    assert done.outcome.reason.startswith("stalled after 3 identical failures: image agents/late:1 is not on")
    assert report.is_stuck
    fleet.restart()
    assert fleet.run().is_stuck
    if remedy == "commit":
        fleet.commit(GOOD, hub=hub)
    else:
        fleet.runtime.add_image("agents/late:1", "sha256:late")
    fleet.settle()
    assert records.units(fleet.store) == {}


def test_failures_that_differ_do_not_stall(fleet: FakeFleet) -> None:
    for number in range(6):
        fleet.runtime.fail_next("create", f"reason {number}")
    fleet.commit(GOOD, hub=hub_text(loop={"concurrency": 1, "stalledAfter": 2}))
    for _ in range(6):
        fleet.run()
        fleet.clock.advance(400)
    fleet.settle()


def test_a_reboot_ends_a_back_off(fleet: FakeFleet) -> None:
    fleet.runtime.fail_next("create", times=4)
    fleet.commit(GOOD)
    for _ in range(4):
        fleet.run()
        fleet.clock.advance(300)
    fleet.clock.advance(-299)
    assert isinstance(fleet.run().done[0].outcome, Skipped)
    fleet.clock.reboot()
    assert isinstance(fleet.run().done[0].outcome, Applied)


def test_a_store_that_cannot_be_written_ends_the_pass_before_any_effect(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    with fleet.store.read() as session:
        session.connection().exec_driver_sql("PRAGMA query_only=ON")
    before = [c for c in fleet.runtime.calls if c[0] not in ("list", "inspect", "resolve_image")]
    with pytest.raises(StoreError):
        fleet.run()
    assert [c for c in fleet.runtime.calls if c[0] not in ("list", "inspect", "resolve_image")] == before
    with fleet.store.read() as session:
        session.connection().exec_driver_sql("PRAGMA query_only=OFF")
    fleet.settle()


def test_a_fault_of_the_hubs_own_is_a_failed_change_and_not_the_end(
    fleet: FakeFleet, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = [replace(k, apply=_broken) if k.name == "agent" else k for k in KINDS]
    fleet.loop = Loop(fleet.world, kinds)
    fleet.commit({**GOOD, "schemas/messages/a.b.schema.json": "{}"})
    report = fleet.run()
    (failed,) = report.failed
    assert failed.outcome == Failed(reason="a fault of the hub's own (ZeroDivisionError); its log has the details")
    assert actions(report, "schema") == {"a.b": "create"}
    assert "applying agent/writer-0" in caplog.text


def _broken(*_: object) -> Applied:
    return Applied(note=str(1 // 0))


@pytest.mark.parametrize("unseen", ["SourceUnavailable: no route", "SourceUnsettled: a rebase is in progress"])
def test_what_is_wrong_with_the_newest_revision_stands_while_nobody_can_look_at_the_source(
    fleet: FakeFleet, unseen: str
) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.commit({})
    refused = told(fleet.run())["PlanRefused"]
    fleet.source.fail(unseen)
    assert told(fleet.run())["PlanRefused"] == refused
    fleet.restart()
    assert told(fleet.run())["PlanRefused"] == refused
    fleet.source.fail(None)
    fleet.commit({"agents.d/a.yaml": "kind: Agent\n"})
    assert "PlanRefused" not in told(fleet.run())
    fleet.source.fail(unseen)
    assert set(told(fleet.run())) == {"ConfigInvalid", unseen.partition(":")[0]}
    fleet.source.fail(None)
    fleet.commit(GOOD)
    assert fleet.settle().conditions == ()
    assert ("PlanRefused", "over") in transitions(fleet)
