"""Which plans are refused whole, exactly where the limits are, and what a confirmation covers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.change import Action, Cause, Change
from reconciler.core.plan import Plan
from reconciler.loop.guard import GuardFacts, guard, without_removals
from reconciler.settings import HubSpec

FACTS = GuardFacts(is_descendant=True, confirmed="", before={}, protected=frozenset())
HUB = HubSpec()


def change(name: str, action: Action = Action.REMOVE, kind: str = "agent", **more: object) -> Change:
    instance = f"{name}-0" if kind == "agent" else None
    values = {"instance": instance, "spec_digest": "1:a", "reason": "no longer in git", **more}
    return Change(kind=kind, name=name, action=action, **values)  # type: ignore[arg-type]


def plan_of(*changes: Change, revision: str = "r2") -> Plan:
    return Plan(revision=revision, compared_with="engine", changes=changes)


def removing(removed: int, kept: int, kind: str = "agent", action: Action = Action.REMOVE) -> Plan:
    return plan_of(
        *(change(f"gone{n}", action, kind) for n in range(removed)),
        *(change(f"kept{n}", Action.KEEP, kind) for n in range(kept)),
    )


def refusals(plan: Plan, hub: HubSpec = HUB, facts: GuardFacts = FACTS) -> list[str]:
    return [r.guard for r in guard(plan, hub, facts).refused]


def hub_with(**loop: object) -> HubSpec:
    return HubSpec.model_validate({"loop": loop})


@pytest.mark.parametrize(
    ("removed", "kept", "is_refused"),
    [
        (3, 1, False),  # three is within the count, whatever the share
        (4, 16, False),  # a fifth is within the share, whatever the count
        (4, 15, True),
        (4, 17, False),
        (20, 80, False),
        (21, 79, True),
    ],
)
@pytest.mark.parametrize("kind", ["agent", "schema", "policy"])
def test_a_plan_is_refused_above_both_count_and_share(kind: str, removed: int, kept: int, is_refused: bool) -> None:
    assert refusals(removing(removed, kept, kind)) == (["prune-budget"] if is_refused else [])


def test_the_refusal_says_what_would_go_and_what_the_budget_is() -> None:
    (refusal,) = guard(removing(6, 1), HUB, FACTS).refused
    assert refusal.reason == (
        "it would remove 6 of 7 agents (gone0, gone1, gone2, gone3, gone4, …); "
        "no more than 3, or than 20 %, may go without a confirmation"
    )


def test_the_budget_is_the_hubs() -> None:
    hub = hub_with(pruneBudget={"count": 0, "percent": 0})
    assert refusals(removing(1, 99), hub) == ["prune-budget"]
    assert refusals(removing(9, 1), hub_with(pruneBudget={"count": 9, "percent": 0})) == []
    assert refusals(removing(9, 1), hub_with(pruneBudget={"count": 0, "percent": 90})) == []


def test_what_was_there_counts_even_if_the_plan_says_nothing_of_it() -> None:
    plan = removing(4, 0)
    assert refusals(plan) == ["empty-set"]
    assert refusals(plan, facts=replace(FACTS, before={"agent": 19})) == ["prune-budget"]
    assert refusals(plan, facts=replace(FACTS, before={"agent": 20})) == []


def test_what_is_new_does_not_make_room_for_removals() -> None:
    plan = plan_of(*removing(4, 1).changes, *(change(f"new{n}", Action.CREATE) for n in range(50)))
    assert refusals(plan) == ["prune-budget"]


@pytest.mark.parametrize("removed", [1, 3, 10])
def test_an_empty_fleet_is_refused_however_small_it_was(removed: int) -> None:
    (refusal,) = guard(removing(removed, 0), HUB, FACTS).refused
    assert (refusal.guard, refusal.reason) == ("empty-set", f"it would remove all {removed} agents")


def test_all_agents_may_be_exchanged_for_others_within_the_budget() -> None:
    assert refusals(plan_of(*removing(3, 0).changes, change("new", Action.CREATE))) == []
    assert refusals(plan_of(*removing(4, 0).changes, change("new", Action.CREATE))) == ["prune-budget"]


def test_recycling_counts_as_removal() -> None:
    assert refusals(removing(4, 1, action=Action.RECYCLE)) == ["prune-budget"]


@pytest.mark.parametrize(("count", "said"), [(1, "the one agent that runs"), (5, "all 5 agents that run")])
def test_a_fleet_without_a_record_is_refused_as_lost_and_not_as_taken_out_of_git(count: int, said: str) -> None:
    (refusal,) = guard(removing(count, 0, action=Action.RECYCLE), HUB, FACTS).refused
    assert (refusal.guard, refusal.reason) == (
        "lost-state",
        f"the record of {said} was lost; restore state.db from a backup, "
        "or have what runs removed and what git says made anew",
    )


def test_draining_towards_removal_counts_from_the_start() -> None:
    draining = [change(f"gone{n}", Action.UPDATE, towards=Action.REMOVE) for n in range(3)]
    waiting = [change(f"wait{n}", Action.HOLD, towards=Action.REMOVE, wait_s=5.0) for n in range(2)]
    assert refusals(plan_of(*draining, *waiting, change("kept", Action.KEEP))) == ["prune-budget"]
    assert refusals(plan_of(*draining)) == ["empty-set"]
    towards_replace = [change(f"x{n}", Action.UPDATE, towards=Action.REPLACE) for n in range(9)]
    assert refusals(plan_of(*towards_replace)) == []


def test_an_agent_that_only_gets_fewer_replicas_is_not_removed() -> None:
    gone = [replace(change("writer"), instance=f"writer-{n}") for n in range(1, 9)]
    plan = plan_of(*gone, change("writer", Action.KEEP))
    assert refusals(plan, facts=replace(FACTS, protected=frozenset({"writer"}))) == []


def scaling(name: str, ordinal: int = 0) -> Change:
    """One instance less of an agent that stays in git."""
    return replace(change(name), instance=f"{name}-{ordinal}", is_scaling=True)


def test_scaling_agents_to_0_is_no_removal_while_their_manifests_are_there_and_unprotected() -> None:
    idle = [scaling(f"idle{n}") for n in range(9)]
    assert refusals(plan_of(*idle)) == []
    assert refusals(plan_of(*idle, change("gone"))) == []
    assert refusals(plan_of(*idle, *removing(4, 0).changes), facts=replace(FACTS, before={"agent": 13})) == [
        "prune-budget"
    ]
    assert refusals(plan_of(*(replace(c, is_scaling=False) for c in idle))) == ["empty-set"]


def test_scaling_the_last_instance_of_a_protected_agent_to_0_is_refused_by_that_name() -> None:
    facts = replace(FACTS, protected=frozenset({"writer", "gone"}))
    both = plan_of(scaling("writer"), change("gone"), change("kept", Action.KEEP))
    assert [r.reason.partition(";")[0] for r in guard(both, HUB, facts).refused] == [
        "agent gone is protected (lifecycle.protect: true) and would be removed",
        "agent writer is protected (lifecycle.protect: true) and would be scaled to 0",
    ]
    fewer = plan_of(scaling("writer", ordinal=1), change("writer", Action.KEEP))
    assert refusals(fewer, facts=facts) == []


def test_an_agent_that_is_scaled_down_makes_no_room_for_the_removal_of_a_task_of_its_name() -> None:
    cancels = [change(f"t{n}", Action.CANCEL, "task", towards=Action.REMOVE) for n in range(4)]
    assert refusals(plan_of(*cancels, *(scaling(f"t{n}") for n in range(4)))) == ["prune-budget"]


def test_pruning_that_is_off_does_not_keep_an_agent_from_being_scaled_down() -> None:
    plan = guard(plan_of(scaling("writer"), change("gone")), hub_with(prune={"agents": "off"}), FACTS)
    assert [c.action for c in plan.changes] == [Action.REMOVE, Action.HOLD]


def test_taking_away_tasks_that_run_is_within_a_budget_too() -> None:
    cancels = [change(f"t{n}", Action.CANCEL, "task", towards=Action.REMOVE) for n in range(4)]
    assert refusals(plan_of(*cancels)) == ["prune-budget"]
    assert refusals(plan_of(*cancels[:3])) == []
    assert refusals(plan_of(*(replace(c, towards=None) for c in cancels))) == []
    held = guard(plan_of(*cancels), hub_with(prune={"tasks": "off"}), FACTS)
    assert {c.action for c in held.changes} == {Action.HOLD}
    assert refusals(plan_of(*cancels), hub_with(prune={"tasks": "on"})) == []


def test_pruning_that_is_on_has_no_budget_and_still_no_protection_is_lost() -> None:
    hub = hub_with(prune={"agents": "on"})
    assert refusals(removing(50, 0), hub) == []
    assert refusals(removing(1, 1), hub, replace(FACTS, protected=frozenset({"gone0"}))) == ["protect"]


def test_pruning_that_is_off_holds_what_git_removed_and_refuses_nothing() -> None:
    orphan = change("orphan", Action.RECYCLE, cause=Cause.DRIFT)
    plan = guard(plan_of(*removing(5, 0).changes, orphan), hub_with(prune={"agents": "off"}), FACTS)
    assert plan.refused == ()
    assert [c.action for c in plan.changes] == [Action.HOLD] * 5 + [Action.RECYCLE]
    assert plan.changes[0].reason == "no longer in git; not removed: pruning is off (loop.prune)"


def test_what_is_protected_is_not_removed() -> None:
    facts = replace(FACTS, protected=frozenset({"gone0", "kept0"}))
    (refusal,) = guard(removing(1, 1), HUB, facts).refused
    assert refusal.guard == "protect"
    assert refusal.reason.startswith("agent gone0 is protected (lifecycle.protect: true)")
    replaced = plan_of(change("gone0", Action.REPLACE))
    assert refusals(replaced, facts=facts) == []


def test_a_revision_that_does_not_descend_from_the_applied_one_is_refused() -> None:
    facts = replace(FACTS, is_descendant=False)
    assert refusals(plan_of(change("a", Action.CREATE)), facts=facts) == ["not-a-descendant"]


def test_what_only_the_revisions_own_policies_allow_is_refused() -> None:
    (refusal,) = guard(plan_of(change("a", Action.CREATE)), HUB, replace(FACTS, disputed=("agent/a: no",))).refused
    assert refusal.guard == "admission"
    assert "agent/a: no" in refusal.reason


def test_a_new_state_beside_running_containers_asks() -> None:
    facts = replace(FACTS, is_fresh_store=True)
    assert "lost-state" in refusals(removing(1, 1, action=Action.RECYCLE), facts=facts)
    assert refusals(plan_of(change("a", Action.CREATE)), facts=facts) == []


def test_every_guard_that_objects_is_named() -> None:
    facts = replace(FACTS, is_descendant=False, protected=frozenset({"gone1"}), is_fresh_store=True)
    plan = removing(5, 0, action=Action.RECYCLE)
    assert refusals(plan, facts=facts) == ["not-a-descendant", "lost-state", "protect"]


def test_a_confirmation_passes_exactly_the_plan_that_was_refused() -> None:
    plan = removing(5, 0)
    (refusal,) = guard(plan, HUB, FACTS).refused
    confirmed = replace(FACTS, confirmed=refusal.confirm)
    assert refusals(plan, facts=confirmed) == []
    assert guard(plan, HUB, confirmed).changes == plan.changes
    for other in (
        removing(6, 0),
        removing(4, 0),
        replace(plan, revision="r3"),
        plan_of(*plan.changes[:-1], replace(plan.changes[-1], spec_digest="1:b")),
        plan_of(*plan.changes[:-1], replace(plan.changes[-1], name="other", instance="other-0")),
    ):
        assert refusals(other, facts=confirmed) != []
    for same in (
        plan_of(*plan.changes, change("new", Action.CREATE)),
        plan_of(*plan.changes, change("router", Action.UPDATE, "router")),
        plan_of(*reversed(plan.changes)),
    ):
        assert refusals(same, facts=confirmed) == []


def test_a_confirmation_stands_while_agents_and_tasks_take_their_usual_steps() -> None:
    plan = removing(5, 1)
    (refusal,) = guard(plan, HUB, FACTS).refused
    usual = [
        change("kept0", Action.UPDATE, cause=Cause.START),
        change("kept0", Action.RESTART, cause=Cause.CRASH),
        change("t", Action.AUTHORISE, "task"),
        change("t", Action.DISPATCH, "task"),
        change("t", Action.HOLD, "task"),
        change("router", Action.CREATE, "router", cause=Cause.CRASH),
    ]
    busy = [replace(plan.changes[0], action=Action.UPDATE, towards=Action.REMOVE), *plan.changes[1:]]
    for step in usual:
        assert refusals(plan_of(*busy, step), facts=replace(FACTS, confirmed=refusal.confirm)) == []


def test_without_its_removals_a_refused_plan_may_be_applied() -> None:
    draining = change("busy", Action.UPDATE, towards=Action.REMOVE)
    plan = without_removals(plan_of(*removing(2, 0).changes, draining, change("new", Action.CREATE)), "the budget")
    assert [c.action for c in plan.changes] == [Action.HOLD, Action.HOLD, Action.HOLD, Action.CREATE]
    assert plan.changes[0].reason == "no longer in git; not removed: the budget"


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 10), st.integers(0, 100))
def test_no_plan_that_passes_removes_more_than_both_limits(removed: int, kept: int, count: int, percent: int) -> None:
    hub = hub_with(pruneBudget={"count": count, "percent": percent})
    plan = removing(removed, kept)
    if not refusals(plan, hub) and removed:
        assert removed <= count or removed * 100 <= (removed + kept) * percent
        assert kept > 0
