"""Asking the router what it knows, and the record what it should know."""

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import World
from reconciler.kinds.route_entry import instance_entry
from reconciler.kinds.router.state import RouterState
from reconciler.ports import RouterReport
from reconciler.settings import HubSpec
from reconciler.store import records

WAS_RUNNING = "router_was_running"
CONFIGURED = "router_config_digest"
ASLEEP = "registered"
"""The phase of an instance without a token that has a mailbox all the same."""


def observe(world: World, report: Reading[RouterReport], _hub: HubSpec) -> Reading[RouterState]:
    """Raises StoreError."""
    recorded = records.instances(world.store).items()
    entries = {n: instance_entry(r) for n, r in recorded if r.token_sha256 or r.phase == ASLEEP}
    return Ok(
        RouterState(
            report=report.value if isinstance(report, Ok) else None,
            entries=entries,
            was_running=world.store.get_meta(WAS_RUNNING) is not None,
        )
    )
