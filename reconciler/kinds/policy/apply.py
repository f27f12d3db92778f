"""Activating the policies of a revision, whole, and running OPA. The router gets the same bundle."""

from reconciler.core.change import Action, Change
from reconciler.core.outcome import Applied, Outcome
from reconciler.crashpoint import effect
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.policy.observe import ACTIVE, OPA_WAS_RUNNING
from reconciler.kinds.policy.spec import OPA
from reconciler.policy.bundle import NO_POLICIES
from reconciler.policy.opa_process import start_opa, stop_opa


def apply(change: Change, world: World, _desired: Desired) -> Outcome:
    """Raises PolicyEngineError; the last good bundle goes on answering then."""
    if change.name == OPA:
        return _apply_opa(change, world)
    if change.action is Action.REMOVE:
        effect("policy.deactivate", world.policy.activate, NO_POLICIES)
        effect("policy.record", world.store.set_meta, ACTIVE, "")
        return Applied()
    effect("policy.activate", world.policy.activate, change.spec.bundle)
    effect("policy.record", world.store.set_meta, ACTIVE, change.spec_digest)
    return Applied()


def take_down(world: World) -> None:
    """End OPA, whether it is ours to run any more or not. Raises PolicyEngineError, StoreError."""
    effect("opa.stop", stop_opa, world.run)
    if world.store.get_meta(OPA_WAS_RUNNING):
        world.store.set_meta(OPA_WAS_RUNNING, "")


def _apply_opa(change: Change, world: World) -> Outcome:
    if change.action is Action.REMOVE:
        take_down(world)
        return Applied()
    effect("opa.start", start_opa, world.run, world.state, change.spec)
    world.store.set_meta(OPA_WAS_RUNNING, "yes")
    return Applied()
