"""The pass when a guard refuses its plan: what goes on, what waits, and how a person lets it through."""

from reconciler.core.change import Action, FieldChange
from reconciler.kinds import KINDS
from reconciler.loop.run import CONFIRMED, Loop
from reconciler.settings import HubSpec
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, actions, change_of, told
from tests.fakes.texts import agent_text, hub_text, task_text

GOOD = {"agents.d/a.yaml": agent_text()}


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


def test_a_revision_that_removes_too_much_does_not_slip_in_while_nobody_sees_what_runs(fleet: FakeFleet) -> None:
    good = fleet.commit(FIVE)
    fleet.settle()
    fleet.runtime.go_down()
    fleet.commit({"agents.d/a0.yaml": agent_text("a0", version="2")})
    (away,) = fleet.run().plan.refused
    assert fleet.loop.revisions.applied == good
    fleet.runtime.come_back()
    report = fleet.run()
    assert report.plan.refused == (away,)
    assert fleet.loop.revisions.applied == good
    fleet.store.set_meta(CONFIRMED, away.confirm)
    fleet.runtime.go_down()
    assert not fleet.run().plan.refused
    fleet.runtime.come_back()
    fleet.settle()
    assert list(fleet.containers()) == ["a0-0"]


def test_a_plan_that_is_refused_at_the_revision_in_force_removes_nothing_and_does_the_rest(fleet: FakeFleet) -> None:
    revision = fleet.commit(FIVE)
    fleet.settle()
    for name in list(fleet.instances())[:4]:
        records.delete_instance(fleet.store, name)
    fleet.runtime.remove_by_hand("a4-0")
    report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["prune-budget"]
    assert report.revision == revision
    assert len(fleet.containers()) == 5
    assert {c.action for c in report.plan.changes if c.kind == "agent"} == {Action.HOLD, Action.CREATE}


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


def test_an_agent_that_is_scaled_to_0_goes_on_purpose_but_not_while_it_is_protected(fleet: FakeFleet) -> None:
    def commit(**lifecycle: object) -> None:
        fleet.commit({"agents.d/safe.yaml": agent_text("safe", replicas=0, lifecycle=lifecycle)})

    fleet.commit({"agents.d/safe.yaml": agent_text("safe", lifecycle={"protect": True})})
    fleet.settle()
    commit(protect=True)
    report = fleet.run()
    assert [(r.guard, "would be scaled to 0" in r.reason) for r in report.plan.refused] == [("protect", True)]
    assert fleet.containers() == {"safe-0": "running"}
    fleet.commit({"agents.d/safe.yaml": agent_text("safe")})
    fleet.settle()
    commit()
    change = change_of(fleet.look(), "agent/safe-0")
    assert (change.action, change.reason) == (Action.REMOVE, "git wants 0 of safe")
    assert change.fields == (FieldChange(path="spec.replicas", before=1, after=0),)
    fleet.settle()
    assert fleet.containers() == {}
    fleet.commit({})
    fleet.settle()


def test_a_lost_state_asks_before_it_recycles_a_fleet(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.end_hub()
    for file in fleet.folder.glob("state.db*"):
        file.unlink()
    fleet.start_hub()
    report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["lost-state"]
    assert "restore state.db from a backup" in told(report)["PlanRefused"]
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
