"""Reading the runs of tasks from the record."""

from collections.abc import Mapping

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import World
from reconciler.kinds.task.state import TaskState, TaskStates, how_far
from reconciler.ports import RouterReport
from reconciler.settings import HubSpec
from reconciler.store import attempts, records
from reconciler.store.store import Store


def observe(world: World, report: Reading[RouterReport], _hub: HubSpec) -> Reading[TaskStates]:
    """All runs and schedules. Raises StoreError."""
    return Ok(
        TaskStates(
            runs=tuple(records.tasks(world.store)),
            without_result=records.runs_without_result(world.store),
            unended=find_unended(world.store),
            schedules=records.schedules(world.store),
            listening=world.router_watch.look(report, world.clock.boottime()),
        )
    )


def find_unended(store: Store) -> Mapping[str, TaskState]:
    """Runs whose end somebody wrote by hand, and how far they are. Raises StoreError."""
    suspects = (records.task(store, run) for run in attempts.unended(store))
    found = {t.run: how_far(t, records.attempts(store, t.run)) for t in suspects if t is not None}
    return {run: state for run, state in found.items() if state is not None}
