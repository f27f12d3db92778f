"""The lifecycle of instances in the record: each step from phase to phase is a row of the audit log, with its cause."""

import json

from reconciler.core.change import Cause, Change
from reconciler.kinds.agent.state import Phase
from reconciler.kinds.kind import Desired, World
from reconciler.store import attempts, records
from reconciler.store.audit import append
from reconciler.store.records import InstanceRecord, OrderRecord

ACTION = "phase"
"""What the rows say was done."""


def put(
    world: World,
    desired: Desired,
    change: Change,
    after: InstanceRecord,
    order: OrderRecord | None = None,
    lost: str = "",
) -> None:
    """Record an instance as it is from now on, in one transaction with its step, if its phase is another one.

    An `order` is done with it. `lost` says why the tasks that it had are handed back. Raises StoreError.
    """
    with world.store.transaction():
        before = records.instance(world.store, after.name)
        container = after.container_id if after.phase in (Phase.HANDSHAKING, Phase.EXECUTING) else ""
        _note(world, desired, change, before.phase if before else Phase.DEFINED, after.phase, after.name, container)
        records.put_instance(world.store, after)
        if order is not None:
            records.delete_order(world.store, order)
        if lost:
            attempts.lose(world.store, after.name, lost, world.clock.now())


def forget(world: World, desired: Desired, change: Change, name: str) -> None:
    """An instance is no more. Raises StoreError."""
    with world.store.transaction():
        before = records.instance(world.store, name)
        if before is not None:
            _note(world, desired, change, before.phase, Phase.TERMINATED, name)
        records.delete_instance(world.store, name)


def _note(
    world: World, desired: Desired, change: Change, before: str, after: str, name: str, container: str = ""
) -> None:
    """`container` is the id of the one that runs, so that a report can name it."""
    if before == after:
        return
    entry = world.entry(
        revision=desired.revision.id,
        actor=desired.asked_by("agent", change.name) if change.cause is Cause.COMMIT else "hub",
        cause=str(change.cause),
        kind="agent",
        name=name,
        action=ACTION,
        before=json.dumps({"phase": str(before)}),
        after=json.dumps({"phase": str(after), **({"container": container} if container else {})}),
        outcome="noted",
        reason=change.reason[:1000],
    )
    append(world.store, [entry])
