"""Which policy bundle answers: by the record, and by the engine of this process; and the OPA that the hub runs."""

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import World
from reconciler.kinds.policy.spec import is_opa_managed
from reconciler.kinds.policy.state import OpaState, PolicyState
from reconciler.policy.opa_process import digest_start, find_opa, find_program
from reconciler.ports import RouterReport
from reconciler.settings import HubSpec

ACTIVE = "active_policy"
OPA_WAS_RUNNING = "opa_was_running"


def observe(world: World, _report: Reading[RouterReport], hub: HubSpec) -> Reading[PolicyState]:
    """Raises StoreError."""
    return Ok(
        PolicyState(
            recorded=world.store.get_meta(ACTIVE) or "", in_engine=world.policy.revision, opa=_observe_opa(world, hub)
        )
    )


def _observe_opa(world: World, hub: HubSpec) -> OpaState:
    program = find_program(world.operator.policy.opa_binary) if is_opa_managed(hub) else None
    running = find_opa(world.run)
    return OpaState(
        program=program,
        running=running.digest if running else "",
        wanted=digest_start(world.state, program) if program else "",
        was_running=bool(world.store.get_meta(OPA_WAS_RUNNING)),
    )
