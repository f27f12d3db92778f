"""Which message schemas are active, by the record."""

import json
from collections.abc import Mapping

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import World
from reconciler.ports import RouterReport
from reconciler.settings import HubSpec

ACTIVE = "active_schemas"


def observe(world: World, _report: Reading[RouterReport], _hub: HubSpec) -> Reading[Mapping[str, str]]:
    """Digest by message type. Raises StoreError."""
    return Ok(active(world))


def active(world: World) -> Mapping[str, str]:
    found: Mapping[str, str] = json.loads(world.store.get_meta(ACTIVE) or "{}")
    return found
