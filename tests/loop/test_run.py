"""The pass: what stays in force when something is broken, what people are told of it, and what is on record."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.change import Action
from reconciler.core.condition import Mode
from reconciler.core.outcome import Applied, Failed, Skipped
from reconciler.errors import StoreError
from reconciler.kinds import KINDS
from reconciler.loop.run import CONFIRMED, Loop, PassReport
from reconciler.settings import HubSpec
from reconciler.store import audit, records
from tests.fakes.fleet import FakeFleet, actions, change_of, show
from tests.fakes.source import Odd
from tests.fakes.texts import agent_text, hub_text, task_text

REGO = 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n'
BROKEN = {"agents.d/a.yaml": agent_text(rol="x")}
GOOD = {"agents.d/a.yaml": agent_text()}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    made = FakeFleet(tmp_path)
    yield made
    made.end_hub()


def told(report: PassReport) -> dict[str, str]:
    """Message by type of every condition that is true."""
    return {c.type: c.message for c in report.conditions}


def transitions(fleet: FakeFleet) -> list[tuple[str, str]]:
    """Type and first words of every audited change of a condition."""
    return [(e.action, e.reason.split(":")[0]) for e in fleet.audit() if e.kind == "condition"]


# --- which revision ---------------------------------------------------------------------------------------------------


def test_without_any_commit_nothing_happens_and_it_is_said(fleet: FakeFleet) -> None:
    report = fleet.run()
    assert told(report) == {"SourceUnavailable": "there is no commit yet"}
    assert (report.revision, report.plan.changes, report.is_converged) == ("", (), False)


def test_a_first_commit_that_is_broken_changes_nothing_and_names_every_problem(fleet: FakeFleet) -> None:
    fleet.commit({**BROKEN, "tasks.d/t.yaml": task_text(agnt="x")})
    report = fleet.run()
    assert [str(p).split(": ")[0] for p in report.problems] == ["agents.d/a.yaml:9:3", "tasks.d/t.yaml:6:3"]
    assert "has 2 problems; first: agents.d/a.yaml:9:3" in told(report)["ConfigInvalid"]
    assert fleet.containers() == {}
    assert fleet.loop.revisions.applied == ""


def test_a_broken_commit_leaves_the_last_good_one_in_force(fleet: FakeFleet) -> None:
    good = fleet.commit(GOOD)
    fleet.settle()
    fleet.commit(BROKEN)
    report = fleet.run()
    assert "ConfigInvalid" in told(report)
    assert (report.revision, fleet.loop.revisions.applied) == (good, good)
    assert actions(report) == {"writer-0": "keep"}
    fleet.runtime.remove_by_hand("writer-0")
    assert actions(fleet.run()) == {"writer-0": "create"}


@pytest.mark.parametrize("break_it", ["commit", "source"])
def test_the_last_good_revision_is_in_force_for_a_hub_that_starts_anew(fleet: FakeFleet, break_it: str) -> None:
    good = fleet.commit({**GOOD, "policies/a.rego": REGO, "schemas/messages/a.b.schema.json": "{}"})
    fleet.settle()
    if break_it == "commit":
        fleet.commit(BROKEN)
    else:
        fleet.source.fail("the disk is gone")
    fleet.restart()
    report = fleet.run()
    assert report.revision == good
    assert actions(report) == {"writer-0": "keep"}
    assert actions(report, "schema") == {"a.b": "keep"}
    assert [c.spec_digest for c in report.plan.changes if c.kind == "policy"] != [""]
    fleet.runtime.crash("writer-0")
    fleet.run()
    assert fleet.containers() == {"writer-0": "running"}


def test_a_fix_is_applied_in_the_next_pass(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.commit(BROKEN)
    for _ in range(5):
        fleet.run()
    fixed = fleet.commit({"agents.d/a.yaml": agent_text(description="fixed")})
    report = fleet.run()
    assert (report.revision, fleet.loop.revisions.applied) == (fixed, fixed)
    assert actions(report) == {"writer-0": "update"}
    assert told(report) == {}


def test_a_source_that_cannot_be_read_leaves_the_last_good_revision_in_force(fleet: FakeFleet) -> None:
    good = fleet.commit(GOOD)
    fleet.settle()
    fleet.source.fail("SourceUnsettled: a rebase is under way")
    report = fleet.run()
    assert told(report) == {"SourceUnsettled": "a rebase is under way"}
    assert (report.revision, actions(report), report.mode) == (good, {"writer-0": "keep"}, Mode.NORMAL)
    fleet.source.fail("git: not found")
    assert told(fleet.run()) == {"SourceUnavailable": "git: not found"}
    fleet.source.fail(None)
    assert told(fleet.run()) == {}


def test_large_files_beside_the_manifests_do_not_stop_a_revision(fleet: FakeFleet) -> None:
    big = Odd(b"{}", size_bytes=5 * 2**20)
    files = {"schemas/big.json": big, "agents.d/data/big.yaml": big, "policies/link.yaml": Odd(b"x", mode="120000")}
    revision = fleet.commit({**GOOD, **files})
    fleet.settle()
    assert fleet.loop.revisions.applied == revision


def test_a_policy_engine_that_is_away_keeps_the_last_good_revision_and_tasks_going(fleet: FakeFleet) -> None:
    good = fleet.commit(GOOD)
    fleet.settle()
    fleet.policy.is_away = True
    fleet.commit({**GOOD, "policies/a.rego": REGO})
    report = fleet.run()
    assert report.revision == good
    assert "cannot be judged" in told(report)["PolicyFallback"]
    fleet.restart()
    fleet.policy.is_away = True
    assert fleet.run().revision == good
    fleet.policy.is_away = False
    assert told(fleet.run()) == {}
    assert fleet.loop.revisions.applied != good


def test_looking_changes_nothing_at_all(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    report = fleet.look()
    assert actions(report) == {"writer-0": "create"}
    assert (fleet.containers(), fleet.instances(), fleet.audit()) == ({}, {}, [])
    assert fleet.loop.revisions.applied == ""


def test_looking_does_not_hide_a_transition_from_the_record(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.runtime.go_down()
    assert "RuntimeUnavailable" in told(fleet.look())
    assert transitions(fleet) == []
    fleet.run()
    assert transitions(fleet) == [("RuntimeUnavailable", "now true")]


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


# --- refused plans ----------------------------------------------------------------------------------------------------

FIVE = {f"agents.d/a{n}.yaml": agent_text(f"a{n}") for n in range(5)}
HOLDING = {"tasks.d/t.yaml": task_text(agent="a0")}


def test_a_refused_plan_changes_nothing_and_says_how_it_can_be_confirmed(fleet: FakeFleet) -> None:
    good = fleet.commit(FIVE)
    fleet.settle()
    fleet.commit({"agents.d/a0.yaml": agent_text("a0", version="2")})
    report = fleet.run()
    (refusal,) = report.plan.refused
    assert refusal.guard == "prune-budget"
    assert refusal.confirm in told(report)["PlanRefused"]
    assert "it would remove 4 of 5 agents (a1, a2, a3, a4)" in told(report)["PlanRefused"]
    assert (report.revision, fleet.loop.revisions.applied) == (good, good)
    assert set(fleet.containers()) == {f"a{n}-0" for n in range(5)}
    assert fleet.instances()["a0-0"].revision == good


def test_while_a_plan_is_refused_work_goes_on_at_the_last_good_revision(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    fleet.commit({**FIVE, **HOLDING})
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    assert fleet.states() == {"changelog": "running"}
    fleet.commit({})
    report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["empty-set"]
    fleet.agents.holding.clear()
    for _ in range(3):
        fleet.agents.step()
        report = fleet.run()
    assert fleet.states() == {"changelog": "succeeded"}
    fleet.runtime.crash("a3-0")
    fleet.run()
    assert fleet.containers()["a3-0"] == "running"
    assert report.plan.refused


def test_a_refused_plan_keeps_its_digest_while_agents_and_tasks_go_on(fleet: FakeFleet) -> None:
    tasks = {f"tasks.d/t{n}.yaml": task_text(f"t{n}", agent="a0") for n in range(4)}
    fleet.commit({**FIVE, **tasks})
    for _ in range(3):
        fleet.run()
        fleet.agents.step()
    fleet.commit({"agents.d/a0.yaml": agent_text("a0"), **tasks})
    digests = set()
    for number in range(8):
        if number == 4:
            fleet.runtime.crash("a2-0")
        digests |= {r.confirm for r in fleet.run().plan.refused}
        fleet.agents.step()
    assert len(digests) == 1


def test_a_confirmed_plan_is_applied_and_no_other(fleet: FakeFleet) -> None:
    fleet.commit(FIVE)
    fleet.settle()
    fleet.commit({"agents.d/a0.yaml": agent_text("a0")})
    (refusal,) = fleet.run().plan.refused
    fleet.store.set_meta(CONFIRMED, "1:another")
    assert fleet.run().plan.refused
    fleet.store.set_meta(CONFIRMED, refusal.confirm)
    fleet.settle()
    assert list(fleet.containers()) == ["a0-0"]
    fleet.commit(FIVE)
    fleet.settle()
    fleet.commit({"agents.d/a0.yaml": agent_text("a0"), "x.yaml": "another commit with the same removals"})
    assert fleet.run().plan.refused


def test_busy_agents_do_not_slip_past_the_budget_by_draining(fleet: FakeFleet) -> None:
    tasks = {f"tasks.d/t{n}.yaml": task_text(f"t{n}", agent=f"a{n}") for n in range(5)}
    fleet.agents.holding.update(f"t{n}" for n in range(5))
    fleet.commit({**FIVE, **tasks})
    for _ in range(6):
        fleet.run()
        fleet.agents.step()
    assert set(fleet.states().values()) == {"running"}
    hub = hub_text(loop={"concurrency": 1, "prune": {"tasks": "on"}})
    fleet.commit({"agents.d/a0.yaml": agent_text("a0")}, hub=hub)
    report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["prune-budget"]
    assert {r.phase for r in fleet.instances().values()} == {"executing"}


def test_a_revision_that_rewrites_history_waits_for_a_word(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    good = fleet.commit({"agents.d/a.yaml": agent_text(description="two")})
    fleet.settle()
    fleet.source.rewrite({"hub.yaml": hub_text(), "agents.d/a.yaml": agent_text(version="2")})
    report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["not-a-descendant"]
    assert (report.revision, actions(report)) == (good, {"writer-0": "keep"})
    fleet.store.set_meta(CONFIRMED, report.plan.refused[0].confirm)
    fleet.settle()
    assert fleet.loop.revisions.applied != good


def test_a_refused_revision_does_not_set_up_anything_yet(fleet: FakeFleet) -> None:
    seen: list[HubSpec] = []
    fleet.loop = Loop(fleet.world, KINDS, on_desired=lambda desired: seen.append(desired.hub))
    fleet.commit(FIVE)
    fleet.settle()
    before = seen[-1]
    fleet.commit({}, hub=hub_text(policy={"engines": ["builtin"]}))
    assert fleet.run().plan.refused
    fleet.look()
    assert set(map(id, seen)) == {id(before)}


def test_a_protected_agent_stays_until_its_protection_is_gone(fleet: FakeFleet) -> None:
    protected = agent_text("safe", lifecycle={"protect": True})
    fleet.commit({**GOOD, "agents.d/safe.yaml": protected})
    fleet.settle()
    fleet.commit(GOOD)
    assert [r.guard for r in fleet.run().plan.refused] == ["protect"]
    fleet.commit({**GOOD, "agents.d/safe.yaml": agent_text("safe")})
    fleet.settle()
    fleet.commit(GOOD)
    fleet.settle()
    assert list(fleet.containers()) == ["writer-0"]


def test_a_lost_state_asks_before_it_recycles_a_fleet(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.end_hub()
    for file in fleet.folder.glob("state.db*"):
        file.unlink()
    fleet.start_hub()
    report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["empty-set", "lost-state"]
    assert fleet.containers() == {"writer-0": "running"}
    fleet.store.set_meta(CONFIRMED, report.plan.refused[0].confirm)
    fleet.settle()
    assert fleet.containers() == {"writer-0": "running"}
    assert list(fleet.instances()) == ["writer-0"]


def test_a_file_that_vanished_from_the_list_of_tasks_or_schemas_counts_against_their_budget(fleet: FakeFleet) -> None:
    schemas = {f"schemas/messages/a.s{n}.schema.json": "{}" for n in range(30)}
    fleet.commit({**GOOD, **schemas})
    fleet.settle()
    kept = dict(list(schemas.items())[5:])
    fleet.commit({**GOOD, **kept})
    fleet.settle()
    fleet.commit({**GOOD, **dict(list(kept.items())[10:])})
    assert [r.guard for r in fleet.run().plan.refused] == ["prune-budget"]


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
    gaps = [after - before for before, after in zip(tried, tried[1:], strict=False)]
    assert len(tried) == 5
    assert gaps == sorted(gaps)
    assert gaps[-1] > 1.5
    assert "next attempt in" in str(fleet.run().done) or "stalled" in str(fleet.run().done)


def test_after_enough_identical_failures_a_unit_is_stalled_until_a_commit(fleet: FakeFleet) -> None:
    hub = hub_text(loop={"concurrency": 1, "stalledAfter": 3})
    fleet.runtime.fail_next("create", "timed out", times=3)
    fleet.commit(GOOD, hub=hub)
    for _ in range(20):
        report = fleet.run()
        fleet.clock.advance(5)
    (done,) = report.done
    assert done.outcome == Skipped(reason="stalled after 3 identical failures: create writer-0: timed out")
    assert report.is_stuck
    assert fleet.runtime.calls.count(("create", "writer-0")) == 3
    fleet.restart()
    assert fleet.run().is_stuck
    fleet.commit({**GOOD, "README.md": "another revision clears it"}, hub=hub)
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


# --- the record -------------------------------------------------------------------------------------------------------


def test_every_effect_has_its_intent_before_it_and_its_outcome_after_it_and_the_chain_holds(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text(), "policies/a.rego": REGO})
    fleet.settle()
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    fleet.runtime.fail_next("create")
    fleet.run()
    fleet.clock.advance(5)
    fleet.settle()
    open_intents: set[tuple[str, str, str]] = set()
    rows = [
        e for e in fleet.audit() if e.outcome in ("intent", "applied", "failed") and not e.actor.startswith("agent:")
    ]
    for entry in rows:
        key = (entry.kind, entry.name, entry.action)
        if entry.outcome == "intent":
            assert key not in open_intents
            open_intents.add(key)
        else:
            assert key in open_intents, entry
            open_intents.remove(key)
    assert open_intents == set()
    assert any(e.outcome == "failed" for e in rows)
    assert audit.verify_chain(fleet.store) == (len(fleet.audit()), "")


def test_a_row_says_who_asked_for_it_and_why(fleet: FakeFleet) -> None:
    revision = fleet.source.commit({"hub.yaml": hub_text(), **GOOD}, author="Grace <grace@example.org>")
    fleet.settle()
    row = next(e for e in fleet.audit() if (e.kind, e.action) == ("agent", "create"))
    assert (row.actor, row.cause, row.revision, row.name) == (
        "Grace <grace@example.org>",
        "commit",
        revision,
        "writer-0",
    )
    assert row.plan_digest.startswith("1:")
    fleet.runtime.crash("writer-0", 3)
    fleet.run()
    row = next(e for e in fleet.audit() if e.action == "restart")
    assert (row.actor, row.cause, row.reason) == ("hub", "crash", "it exited with 3")


def test_a_pass_with_nothing_to_do_writes_nothing(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text(), "policies/a.rego": REGO})
    fleet.settle()
    visited = len(fleet.fuse.visited)
    for _ in range(3):
        assert fleet.run().is_converged
    assert len(fleet.fuse.visited) == visited


# --- how it went ------------------------------------------------------------------------------------------------------


def test_converged_settled_and_stuck_are_told_apart(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()})
    report = fleet.run()
    assert not (report.is_converged or report.is_settled or report.is_stuck)
    for _ in range(6):
        fleet.agents.step()
        report = fleet.run()
    assert show(report) == [("task/changelog", "hold", "running on writer-0")]
    assert (report.is_converged, report.is_settled, report.is_stuck) == (False, True, False)
    fleet.agents.holding.clear()
    report = fleet.settle()
    assert (report.is_converged, report.is_settled, report.is_stuck) == (True, True, False)
    fleet.commit({"agents.d/a.yaml": agent_text(lifecycle={"autoRestart": False})})
    fleet.settle()
    fleet.runtime.crash("writer-0")
    report = fleet.run()
    assert (report.is_converged, report.is_stuck) == (False, True)
    assert change_of(report, "agent/writer-0").action is Action.HOLD


def test_images_are_looked_up_once_for_each_revision_and_until_they_are_there(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.run()
    assert fleet.runtime.calls.count(("resolve_image", "agents/base:1")) == 1
    fleet.runtime.add_image("agents/base:1", "sha256:base2")
    assert actions(fleet.run()) == {"writer-0": "keep"}
    fleet.commit({**GOOD, "README.md": "x"})
    assert actions(fleet.run()) == {"writer-0": "replace"}
