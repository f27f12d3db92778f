"""Asking the process what it knows, and the record what it should know."""

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.egress.spec import is_wanted
from reconciler.kinds.egress.state import EgressState
from reconciler.kinds.kind import World
from reconciler.kinds.outgoing import read_outgoing
from reconciler.ports import EgressReport, RouterReport
from reconciler.settings import HubSpec
from reconciler.store.store import Store

WAS_RUNNING = "egress_was_running"
CONFIGURED = "egress_config_digest"


def observe(world: World, _report: Reading[RouterReport], hub: HubSpec) -> Reading[EgressState]:
    """Raises StoreError."""
    was_running = bool(world.store.get_meta(WAS_RUNNING))
    if not is_wanted(hub) and not was_running:
        return Ok(EgressState())
    return Ok(
        EgressState(
            report=world.egress.report(),
            outgoing=read_outgoing(world.store),
            keys=world.operator.provider_keys,
            was_running=was_running,
        )
    )


def recorded_config(store: Store) -> str | None:
    """The digest of what it was last configured with, without the operator's part; None where it did not run.

    Raises StoreError.
    """
    return store.get_meta(CONFIGURED) if store.get_meta(WAS_RUNNING) else None


def recorded_state(configured: str | None) -> EgressState:
    """As if it ran as it was last configured. What operators say of providers is not on record."""
    if configured is None:
        return EgressState()
    report = EgressReport(pid=0, epoch="", code_version="", config_digest=configured)
    return EgressState(report=Ok(report), was_running=True)
