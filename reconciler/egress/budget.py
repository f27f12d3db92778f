"""What agents and runs have used, and what is under way: whether another request may begin. Pure, in memory.

A request may begin while less than the whole allowance is used, or held by others. So a budget is passed by what one
request takes at most, also where many come at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.egress.config import AllowanceEntry, Costs, InstanceEntry
from reconciler.egress.problem import Deny


@dataclass(slots=True)
class Spent:
    """Tokens of all kinds, and dollars; `held` are estimates of what is under way."""

    requests: int = 0
    tokens: int = 0
    cost: float = 0.0
    held_tokens: int = 0
    held_cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Held:
    """What one request may take at most, and of whom."""

    accounts: tuple[Spent, ...]
    tokens: int
    cost: float


@dataclass(slots=True)
class Budgets:
    """Accounts of agents, for one day (UTC, counted from 1970), and of runs."""

    day: int = 0
    by_agent: dict[str, Spent] = field(default_factory=dict)
    by_run: dict[str, Spent] = field(default_factory=dict)

    def begin_day(self, day: int) -> None:
        """Another day: agents begin at nothing, but for what is under way."""
        if day != self.day:
            self.day = day
            self.by_agent = {}

    def check(self, entry: InstanceEntry, run: str | None) -> Deny | None:
        """None while something is left of each allowance."""
        for account, allowance, whose in self._list_accounts(entry, run):
            if allowance.tokens is not None and account.tokens + account.held_tokens >= allowance.tokens:
                return _deny(f"{whose} has used or is using {account.tokens + account.held_tokens} tokens", allowance)
            if allowance.cost is not None and account.cost + account.held_cost >= allowance.cost:
                return _deny(f"{whose} has used or is using ${account.cost + account.held_cost:.4f}", allowance)
        return None

    def show_used(self, agent: str, run: str | None) -> tuple[Mapping[str, float], Mapping[str, float] | None]:
        """What the agent has used today and what the run has, with what is under way; None without a run."""
        of_run = _show_used(self.by_run.get(run, Spent())) if run is not None else None
        return _show_used(self.by_agent.get(agent, Spent())), of_run

    def hold(self, entry: InstanceEntry, run: str | None, tokens: int, costs: Costs) -> Held:
        """Put aside what a request may take; to be settled once, whatever becomes of it."""
        accounts = tuple(account for account, _, _ in self._list_accounts(entry, run))
        held = Held(accounts, tokens, tokens * max(costs.input, costs.output) / 1e6)
        for account in accounts:
            account.held_tokens += held.tokens
            account.held_cost += held.cost
        return held

    def settle(self, held: Held, tokens: int, cost: float) -> None:
        """What it came to, instead of what was put aside."""
        for account in held.accounts:
            account.held_tokens -= held.tokens
            account.held_cost = max(0.0, account.held_cost - held.cost)
            account.requests += 1
            account.tokens += tokens
            account.cost += cost

    def _list_accounts(self, entry: InstanceEntry, run: str | None) -> Iterator[tuple[Spent, AllowanceEntry, str]]:
        yield self.by_agent.setdefault(entry.agent, Spent()), entry.per_day, f"agent {entry.agent} today"
        if run is not None:
            yield self.by_run.setdefault(run, Spent()), entry.per_task, f"run {run}"


def _show_used(spent: Spent) -> Mapping[str, float]:
    return {
        "requests": spent.requests,
        "tokens": spent.tokens + spent.held_tokens,
        "cost": round(spent.cost + spent.held_cost, 6),
    }


def _deny(used: str, allowance: AllowanceEntry) -> Deny:
    parts = [f"{allowance.tokens} tokens" if allowance.tokens is not None else ""]
    parts.append(f"${allowance.cost:g}" if allowance.cost is not None else "")
    allowed = " and ".join(part for part in parts if part)
    return Deny(status=402, code="budget_spent", reason=f"{used}; its budget is {allowed}")
