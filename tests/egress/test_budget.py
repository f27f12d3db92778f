"""Budgets: of a run, and of an agent in a day."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from reconciler.egress.budget import Budgets
from reconciler.egress.config import AllowanceEntry, Costs, InstanceEntry

COSTS = Costs(input=10.0, output=50.0)


def entry(agent: str = "writer", **allowances: AllowanceEntry) -> InstanceEntry:
    return msgspec.structs.replace(InstanceEntry(agent=agent), **allowances)


def use(budgets: Budgets, entry: InstanceEntry, run: str | None, tokens: int, cost: float = 0.0) -> None:
    budgets.settle(budgets.hold(entry, run, 0, COSTS), tokens, cost)


def test_a_run_ends_when_its_tokens_are_used() -> None:
    budgets, of_run = Budgets(), entry(per_task=AllowanceEntry(tokens=100))
    use(budgets, of_run, "r1", 99)
    assert budgets.check(of_run, "r1") is None
    use(budgets, of_run, "r1", 1)
    denied = budgets.check(of_run, "r1")
    assert denied is not None
    assert (denied.status, denied.reason) == (402, "run r1 has used or is using 100 tokens; its budget is 100 tokens")
    assert budgets.check(of_run, "r2") is None
    assert budgets.check(of_run, None) is None


def test_an_agent_ends_for_the_day_when_its_dollars_are_used() -> None:
    budgets, of_day = Budgets(day=1), entry(per_day=AllowanceEntry(cost=0.5, tokens=10**6))
    use(budgets, of_day, "r1", 10, cost=0.3)
    use(budgets, of_day, None, 10, cost=0.3)
    denied = budgets.check(of_day, "r9")
    assert denied is not None
    assert denied.reason == "agent writer today has used or is using $0.6000; its budget is 1000000 tokens and $0.5"
    assert budgets.check(entry("reader", per_day=AllowanceEntry(cost=0.5)), "r9") is None
    budgets.begin_day(2)
    assert budgets.check(of_day, "r9") is None


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 200))
def test_many_at_once_pass_a_budget_by_one_request_at_most(estimates: list[int], most: int) -> None:
    budgets, of_run = Budgets(), entry(per_task=AllowanceEntry(tokens=most))
    under_way = []
    for tokens in estimates:
        if budgets.check(of_run, "r") is None:
            under_way.append((budgets.hold(of_run, "r", tokens, COSTS), tokens))
    for held, tokens in under_way:
        budgets.settle(held, tokens, 0.0)
    spent = budgets.by_run["r"]
    assert spent.tokens <= most + max(estimates)
    assert (spent.held_tokens, spent.requests) == (0, len(under_way))


def test_what_was_under_way_at_midnight_counts_for_the_day_it_began() -> None:
    budgets, of_day = Budgets(day=1), entry(per_day=AllowanceEntry(tokens=10))
    held = budgets.hold(of_day, "r", 100, COSTS)
    budgets.begin_day(2)
    budgets.settle(held, 100, 1.0)
    assert budgets.check(of_day, None) is None
    assert budgets.by_run["r"].tokens == 100
