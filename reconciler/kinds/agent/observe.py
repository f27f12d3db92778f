"""Reading the fleet: one list call, the records, the latest inspections, and the router's report."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from reconciler.core.reading import Ok, Reading, Unavailable
from reconciler.core.secret import SecretFault
from reconciler.identity.seal import SEAL_LABEL, is_sealed
from reconciler.kinds.agent.secrets import secret_names
from reconciler.kinds.agent.state import AgentStates, InstanceState
from reconciler.kinds.kind import World
from reconciler.ports import ContainerSummary, RouterReport
from reconciler.settings import HubSpec
from reconciler.store import attempts, records
from reconciler.store.records import InstanceRecord


def observe(world: World, report: Reading[RouterReport], hub: HubSpec) -> Reading[AgentStates]:
    """All instances that have a record or a container. `Unavailable` when the engine cannot be read."""
    listed = world.runtime.list()
    if not isinstance(listed, Ok):
        return listed if isinstance(listed, Unavailable) else Unavailable(reason="the engine gave no list")
    reports = report.value.instances if isinstance(report, Ok) else {}
    recorded = records.instances(world.store)
    orders = records.orders(world.store)
    sleepers = [name for name, record in recorded.items() if _goes_by_work(record.manifest)]
    worked_at = attempts.worked_at(world.store, sleepers)
    containers = _by_name(listed.value, recorded)
    states: dict[str, InstanceState] = {}
    inspections = world.inspections
    for name in sorted(containers.keys() | recorded.keys()):
        container, record = containers.get(name), recorded.get(name)
        inspected = inspections.get(container.name, container.id) if container else None
        states[name] = InstanceState(
            name=name,
            record=record,
            container=container,
            inspected=inspected,
            as_recorded=inspected is not None
            and record is not None
            and inspections.is_as_recorded(inspected, record.fields),
            report=reports.get(name),
            order=orders.get(name),
            worked_at=worked_at.get(name, ""),
            secrets=_secrets(record, world, hub) if container is not None and record is not None else {},
            sealed=container is not None
            and is_sealed(world.seal_key, world.fleet, name, container.labels.get(SEAL_LABEL, "")),
        )
    return Ok(
        AgentStates(
            instances=states,
            listening=world.router_watch.look(report, world.clock.boottime()),
            lacking=world.secrets.lacking(hub.loop.resync),
        )
    )


@lru_cache(maxsize=8192)
def _goes_by_work(manifest: str) -> bool:
    """Whether the manifest (JSON, as recorded) may say that instances come and go with their work."""
    return '"idle"' in manifest or '"per-task"' in manifest


def _secrets(record: InstanceRecord, world: World, hub: HubSpec) -> Mapping[str, SecretFault]:
    names = secret_names(record.manifest)
    return world.secrets.look(world.run / "secrets" / record.name, names, hub.loop.resync) if names else {}


def _by_name(
    listed: Sequence[ContainerSummary], recorded: Mapping[str, InstanceRecord]
) -> Mapping[str, ContainerSummary]:
    """Containers by their own name, whatever their labels say; of two, the one on record keeps it."""
    out: dict[str, ContainerSummary] = {}
    for container in sorted(listed, key=lambda c: c.id):
        name = container.name
        record = recorded.get(name)
        if name in out and record is not None and record.container_id == container.id:
            out[out[name].id] = out[name]
        elif name in out:
            name = container.id
        out[name] = container
    return out
