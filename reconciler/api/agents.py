"""What operators want of agents: restart, drain, quarantine, release. Noted in the record, carried out by passes."""

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.api.access import RefusedRequest
from reconciler.core.caller import Caller
from reconciler.kinds.agent.state import Phase
from reconciler.kinds.kind import World
from reconciler.store import records
from reconciler.store.audit import append
from reconciler.store.records import InstanceRecord, OrderRecord

_SLEEPS = "it sleeps, and is made anew when there is work for it"
_ISOLATED = "it is in quarantine; release it"


def order_agent(world: World, name: str, verb: str, caller: Caller, revision: str) -> Mapping[str, Any]:
    """Note what is wanted of an agent, or of one instance of it, in one transaction with its rows of the audit log.

    Raises RefusedRequest where there is nothing of that name, or nothing to be done.
    """
    found = _find(world, name)
    if verb == "release":
        found = _to_release(world, found)
    refused = {r.name: why for r in found if (why := _why_not(world, r, verb))}
    orders = [
        OrderRecord(name=r.name, verb=verb, actor=str(caller), at=world.clock.now().isoformat())
        for r in found
        if r.name not in refused
    ]
    if not orders:
        raise RefusedRequest("; ".join(f"{instance}: {why}" for instance, why in refused.items()))
    with world.store.transaction():
        append(
            world.store,
            [world.asked(caller, revision=revision, kind="agent", name=o.name, action=verb) for o in orders],
        )
        records.put_orders(world.store, orders)
    return {"agent": found[0].agent, "instances": [o.name for o in orders], "refused": refused}


def _find(world: World, name: str) -> Sequence[InstanceRecord]:
    known = records.instances(world.store)
    found = [r for _, r in sorted(known.items()) if name in (r.name, r.agent)]
    if not found:
        raise RefusedRequest(f"there is no agent or instance {name!r} on record; see `reconciler get instances`", 404)
    return found


def _to_release(world: World, found: Sequence[InstanceRecord]) -> Sequence[InstanceRecord]:
    """A roll-out that was taken back is that of the whole agent."""
    of_it = [r for _, r in sorted(records.instances(world.store).items()) if r.agent == found[0].agent]
    return of_it if any(r.rejected for r in of_it) else found


def _why_not(world: World, record: InstanceRecord, verb: str) -> str:
    """Why this cannot be wanted of the instance now; empty where it can."""
    match verb, record.phase:
        case "release", _:
            is_held = record.name in records.orders(world.store) or _is_held(world, record)
            return "" if is_held else "there is nothing to release it from"
        case "quarantine", Phase.QUARANTINED:
            return "it is in quarantine already"
        case _, Phase.QUARANTINED:
            return _ISOLATED
        case "quarantine", _:
            return ""
        case _, Phase.REGISTERED:
            return _SLEEPS
    return ""


def _is_held(world: World, record: InstanceRecord) -> bool:
    """Whether it is in quarantine, or the roll-out of its agent was taken back."""
    siblings = (r for r in records.instances(world.store).values() if r.agent == record.agent)
    return record.phase == Phase.QUARANTINED or any(r.rejected for r in siblings)
