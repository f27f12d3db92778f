"""Bringing the process where its change says: end, start, configure, register, revoke; in this order."""

from reconciler.core.change import Change
from reconciler.core.outcome import Applied, Outcome
from reconciler.crashpoint import effect
from reconciler.kinds.egress.observe import CONFIGURED, WAS_RUNNING
from reconciler.kinds.egress.plan import EgressWork
from reconciler.kinds.egress.spec import write_config
from reconciler.kinds.kind import Desired, World


def apply(change: Change, world: World, desired: Desired) -> Outcome:
    """Raises EgressError, ForeignFleetError."""
    work: EgressWork = change.spec
    if work.stop:
        effect("egress.stop", world.egress.stop)
        world.store.set_meta(WAS_RUNNING, "")
    if work.start:
        effect("egress.start", world.egress.start)
        world.store.set_meta(WAS_RUNNING, "yes")
    if work.config is not None:
        effect("egress.configure", world.egress.configure, work.config)
        world.store.set_meta(CONFIGURED, str(write_config(desired, {})["digest"]))
    for name, entry in work.put.items():
        effect("egress.put", world.egress.put_instance, name, entry)
    for name in work.remove:
        effect("egress.remove", world.egress.remove_instance, name)
    return Applied()


def take_down(world: World) -> None:
    """End it, whether it is ours to run any more or not. Raises EgressError, StoreError."""
    effect("egress.stop", world.egress.stop)
    if world.store.get_meta(WAS_RUNNING):
        world.store.set_meta(WAS_RUNNING, "")
