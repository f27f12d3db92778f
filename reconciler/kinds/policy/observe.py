"""Which policy bundle answers: by the record, and by the engine of this process."""

from dataclasses import dataclass

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import World
from reconciler.ports import RouterReport

ACTIVE = "active_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """Digests of the bundle that was activated last, and of the one in the engine now; empty where none is."""

    recorded: str = ""
    in_engine: str = ""


def observe(world: World, _report: Reading[RouterReport]) -> Reading[PolicyState]:
    """Raises StoreError."""
    return Ok(PolicyState(recorded=world.store.get_meta(ACTIVE) or "", in_engine=world.policy.revision))
