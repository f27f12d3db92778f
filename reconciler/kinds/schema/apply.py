"""Activating message schemas: the record of what is active; the router loads the whole set in its own step."""

import json

from reconciler.core.change import Action, Change
from reconciler.core.outcome import Applied, Outcome
from reconciler.crashpoint import effect
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.schema.observe import ACTIVE, active


def apply(change: Change, world: World, _desired: Desired) -> Outcome:
    """Note one schema as active, or as gone."""
    effect("schema.activate.record", _record, change, world)
    return Applied()


def _record(change: Change, world: World) -> None:
    with world.store.transaction():
        digests = dict(active(world))
        if change.action is Action.REMOVE:
            digests.pop(change.name, None)
        else:
            digests[change.name] = change.spec_digest
        world.store.set_meta(ACTIVE, json.dumps(digests, sort_keys=True))
