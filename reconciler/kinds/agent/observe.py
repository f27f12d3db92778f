"""Reading the fleet: one list call, the records, the latest inspections, and the router's report."""

from reconciler.core.reading import Ok, Reading, Unavailable
from reconciler.identity.seal import INSTANCE_LABEL, SEAL_LABEL, is_sealed
from reconciler.kinds.agent.state import AgentStates, InstanceState
from reconciler.kinds.kind import World
from reconciler.ports import RouterReport
from reconciler.store import records


def observe(world: World, report: Reading[RouterReport]) -> Reading[AgentStates]:
    """All instances that have a record or a container. `Unavailable` when the engine cannot be read."""
    listed = world.runtime.list()
    if not isinstance(listed, Ok):
        return listed if isinstance(listed, Unavailable) else Unavailable(reason="the engine gave no list")
    reports = report.value.instances if isinstance(report, Ok) else {}
    containers = {c.labels.get(INSTANCE_LABEL, c.name): c for c in listed.value}
    recorded = records.instances(world.store)
    states: dict[str, InstanceState] = {}
    for name in sorted(containers.keys() | recorded.keys()):
        container = containers.get(name)
        states[name] = InstanceState(
            name=name,
            record=recorded.get(name),
            container=container,
            inspected=world.inspections.get(container.name, container.id) if container else None,
            report=reports.get(name),
            sealed=container is not None
            and is_sealed(world.seal_key, world.fleet, name, container.labels.get(SEAL_LABEL, "")),
        )
    return Ok(AgentStates(instances=states))
