"""Activating the policies of a revision, whole. The router gets the same bundle with its configuration."""

from reconciler.core.change import Action, Change
from reconciler.core.outcome import Applied, Outcome
from reconciler.crashpoint import effect
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.policy.observe import ACTIVE
from reconciler.ports import PolicyBundle

NO_POLICIES = PolicyBundle(modules={}, data={}, digest="")


def apply(change: Change, world: World, _desired: Desired) -> Outcome:
    """Raises PolicyEngineError; the last good bundle goes on answering then."""
    if change.action is Action.REMOVE:
        effect("policy.deactivate", world.policy.activate, NO_POLICIES)
        effect("policy.record", world.store.set_meta, ACTIVE, "")
        return Applied()
    effect("policy.activate", world.policy.activate, change.spec.bundle)
    effect("policy.record", world.store.set_meta, ACTIVE, change.spec_digest)
    return Applied()
