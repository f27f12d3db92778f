"""Asking the router what it knows, and the record what it should know."""

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import World
from reconciler.kinds.route_entry import instance_entry
from reconciler.kinds.router.state import RouterState
from reconciler.ports import RouterReport
from reconciler.store import records

WAS_RUNNING = "router_was_running"
CONFIGURED = "router_config_digest"


def observe(world: World, report: Reading[RouterReport]) -> Reading[RouterState]:
    """Raises StoreError."""
    entries = {n: instance_entry(r) for n, r in records.instances(world.store).items() if r.token_sha256}
    return Ok(
        RouterState(
            report=report.value if isinstance(report, Ok) else None,
            entries=entries,
            was_running=world.store.get_meta(WAS_RUNNING) is not None,
        )
    )
