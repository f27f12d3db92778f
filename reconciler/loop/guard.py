"""Step 5: refuse a dangerous plan whole. Pure.

A person confirms exactly one plan by its digest; a confirmed plan passes every guard.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reconciler.core.change import Action, Cause, Change
from reconciler.core.plan import Plan, Refusal, is_addition, is_removal
from reconciler.settings import HubSpec

PRUNABLE = {"agent": "agents", "task": "tasks", "schema": "policies", "policy": "policies"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardFacts:
    """`before` counts the resources per kind that are there now; `protected` names agents that must not go."""

    is_descendant: bool
    confirmed: str
    before: dict[str, int]
    protected: frozenset[str]
    is_fresh_store: bool = False
    disputed: tuple[str, ...] = ()


def guard(plan: Plan, hub: HubSpec, facts: GuardFacts) -> Plan:
    """The plan with its refusals; `prune: off` turns removals into HOLD."""
    if any(is_removal(c) for c in plan.changes):
        plan = replace(plan, changes=tuple(_hold_if_off(c, hub) for c in plan.changes))
    refused: list[Refusal] = []
    if not facts.is_descendant:
        reason = "this revision does not descend from the applied one (history was rewritten, or another branch)"
        refused.append(Refusal(guard="not-a-descendant", reason=reason, confirm=plan.digest))
    if facts.disputed:
        reason = f"the policies in force deny what this revision's own allow: {'; '.join(facts.disputed)}"
        refused.append(Refusal(guard="admission", reason=reason, confirm=plan.digest))
    lost = _find_lost(plan, facts)
    refused.extend(lost or _over_budget(plan, hub, facts))
    scaled = _scaled(plan, "agent")
    for name in sorted(_leaving(plan, "agent") & facts.protected):
        what = "would be scaled to 0" if name in scaled else "would be removed"
        reason = (
            f"agent {name} is protected (lifecycle.protect: true) and {what}; "
            "remove the protection in a commit of its own"
        )
        refused.append(Refusal(guard="protect", reason=reason, confirm=plan.digest))
    if refused and facts.confirmed == plan.digest:
        refused = []
    return replace(plan, refused=tuple(refused))


def without_removals(plan: Plan, why: str) -> Plan:
    """The plan with every removal held: what is left may be applied."""
    return replace(plan, changes=tuple(_hold(c, why) if is_removal(c) else c for c in plan.changes))


def _leaving(plan: Plan, kind: str) -> set[str]:
    """Names of which nothing stays. An agent that only gets fewer replicas is not among them."""
    going = {c.name for c in plan.changes if c.kind == kind and is_removal(c)}
    return going - {c.name for c in plan.changes if c.kind == kind and not is_removal(c)}


def _scaled(plan: Plan, kind: str) -> set[str]:
    """Names that stay in git and ask for fewer: what goes of them goes on purpose, and was not forgotten."""
    return {c.name for c in plan.changes if c.kind == kind and c.is_scaling}


def _find_lost(plan: Plan, facts: GuardFacts) -> Sequence[Refusal]:
    """What runs of this fleet has no record, all of it or with a new store: nobody took it out of git."""
    orphans = {c.name for c in plan.changes if c.kind == "agent" and c.action is Action.RECYCLE}
    others = {c.name for c in plan.changes if c.kind == "agent"} - orphans
    if not orphans or not (facts.is_fresh_store or (not others and facts.before.get("agent", 0) <= len(orphans))):
        return []
    count = "the one agent that runs" if len(orphans) == 1 else f"all {len(orphans)} agents that run"
    reason = (
        f"the record of {count} was lost; restore state.db from a backup, or have what runs removed and what git says "
        "made anew"
    )
    return [Refusal(guard="lost-state", reason=reason, confirm=plan.digest)]


def _over_budget(plan: Plan, hub: HubSpec, facts: GuardFacts) -> Sequence[Refusal]:
    out: list[Refusal] = []
    if not any(is_removal(c) for c in plan.changes):
        return out
    budget = hub.loop.prune_budget
    for kind in ("schema", "policy", "agent", "task"):
        removed = _leaving(plan, kind) - _scaled(plan, kind)
        if not removed or _mode(kind, hub) != "budget":
            continue
        known = {c.name for c in plan.changes if c.kind == kind and not is_addition(c)}
        before = max(facts.before.get(kind, 0), len(known))
        kept = before - len(removed)
        if kind == "agent" and kept == 0 and not any(c.kind == "agent" and is_addition(c) for c in plan.changes):
            reason = f"it would remove all {len(removed)} agents"
            out.append(Refusal(guard="empty-set", reason=reason, confirm=plan.digest))
        elif len(removed) > budget.count and len(removed) * 100 > before * budget.percent:
            shown = ", ".join(sorted(removed)[:5]) + (", …" if len(removed) > 5 else "")
            reason = (
                f"it would remove {len(removed)} of {before} {kind}s ({shown}); "
                f"no more than {budget.count}, or than {budget.percent} %, may go without a confirmation"
            )
            out.append(Refusal(guard="prune-budget", reason=reason, confirm=plan.digest))
    return out


def _hold_if_off(change: Change, hub: HubSpec) -> Change:
    is_pruning = is_removal(change) and change.cause is Cause.COMMIT and not change.is_scaling
    if is_pruning and _mode(change.kind, hub) == "off":
        return _hold(change, "pruning is off (loop.prune)")
    return change


def _hold(change: Change, why: str) -> Change:
    return replace(change, action=Action.HOLD, towards=None, reason=f"{change.reason}; not removed: {why}")


def _mode(kind: str, hub: HubSpec) -> str:
    return str(getattr(hub.loop.prune, PRUNABLE[kind])) if kind in PRUNABLE else "on"
