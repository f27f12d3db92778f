"""Which policy bundle answers: by the record, and by the engine of this process; and the OPA that the hub runs."""

from dataclasses import dataclass

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import World
from reconciler.kinds.policy.spec import is_opa_managed
from reconciler.policy.opa_process import digest_start, find_opa, find_program
from reconciler.ports import RouterReport
from reconciler.settings import HubSpec

ACTIVE = "active_policy"
OPA_WAS_RUNNING = "opa_was_running"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaState:
    """`running` is the digest of what the server that runs was started with, `wanted` of what one would be now.

    Both are empty where there is none; `wanted` also as long as the router has not said where it listens. Where nobody
    asks for a server, `program` and `wanted` are not looked for.
    """

    program: str | None = None
    running: str = ""
    wanted: str = ""
    was_running: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """Digests of the bundle that was activated last, and of the one in the engine now; empty where none is."""

    recorded: str = ""
    in_engine: str = ""
    opa: OpaState = OpaState()


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
