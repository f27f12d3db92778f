"""Step 4: the difference between desired and observed as one plan. Pure."""

from collections.abc import Sequence

from reconciler.core.change import Change
from reconciler.core.plan import Plan
from reconciler.core.reading import Ok
from reconciler.kinds.kind import Desired, Kind
from reconciler.loop.observe import Observed


def make_plan(desired: Desired, observed: Observed, kinds: Sequence[Kind], *, compared_with: str) -> Plan:
    """Changes of all kinds that could be read, in apply order."""
    changes: list[Change] = []
    for kind in kinds:
        reading = observed.readings[kind.name]
        if isinstance(reading, Ok):
            changes.extend(kind.plan(desired, reading.value, observed.facts))
    return Plan(revision=desired.revision.id, compared_with=compared_with, changes=tuple(changes))
