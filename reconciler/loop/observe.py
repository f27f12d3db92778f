"""Step 3: what is there, kind by kind; and the facts that planning may use. Reads only.

A kind that cannot be read is `Unavailable`, and nothing is planned for it or for those after it that need it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reconciler.core.condition import Mode
from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import Desired, Facts, Kind, World
from reconciler.loop.trust import find_distrusted, read_scores
from reconciler.ports import RouterReport
from reconciler.store import attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Readings by kind, and what planning may know besides."""

    readings: Mapping[str, Reading[Any]]
    facts: Facts


def observe(
    desired: Desired, kinds: Sequence[Kind], world: World, mode: Mode, report: Reading[RouterReport]
) -> Observed:
    """Read the world for all kinds given; `report` is what the router said when the pass began. Raises StoreError."""
    readings = {kind.name: kind.observe(world, report, desired.hub) for kind in kinds}
    busy: dict[str, int] = {}
    for task in attempts.in_flight(world.store):
        busy[task.instance] = busy.get(task.instance, 0) + 1
    trust = read_scores(world.store, desired, world.clock.now())
    facts = Facts(
        now=world.clock.now(),
        boottime=world.clock.boottime(),
        boot_id=world.clock.boot_id(),
        mode=mode,
        runtime=world.runtime.name,
        sandboxed=world.runtime.name != "process",
        router=report.value if isinstance(report, Ok) else None,
        busy=busy,
        trust=trust,
        distrusted=find_distrusted(world.store, desired, trust),
        waiting=attempts.waiting(world.store, world.clock.boot_id(), world.clock.boottime()),
        delegated=attempts.delegated(world.store),
    )
    for kind in kinds:
        reading = readings[kind.name]
        if kind.view is None:
            continue
        if isinstance(reading, Ok):
            facts = replace(facts, fleet=kind.view(desired, reading.value, facts))
        else:
            facts = replace(facts, is_fleet_known=False)
    return Observed(readings=readings, facts=facts)
