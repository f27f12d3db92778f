"""Bringing the router where its change says: start, configure, register, revoke; in this order."""

from reconciler.core.change import Change
from reconciler.core.outcome import Applied, Outcome
from reconciler.crashpoint import effect
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.router.observe import CONFIGURED, WAS_RUNNING
from reconciler.kinds.router.plan import RouterWork


def apply(change: Change, world: World, _desired: Desired) -> Outcome:
    """Raises RouterError."""
    work: RouterWork = change.spec
    if work.start:
        effect("router.start", world.router.start)
        world.store.set_meta(WAS_RUNNING, "yes")
    if work.config is not None:
        effect("router.configure", world.router.configure, work.config)
        world.store.set_meta(CONFIGURED, str(work.config["digest"]))
    for name, entry in work.put.items():
        effect("router.put", world.router.put_instance, name, entry)
    for name in work.remove:
        effect("router.remove", world.router.remove_instance, name)
    return Applied()
