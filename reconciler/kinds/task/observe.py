"""Reading the runs of tasks from the record."""

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import World
from reconciler.kinds.task.state import TaskStates
from reconciler.ports import RouterReport
from reconciler.store import records


def observe(world: World, report: Reading[RouterReport]) -> Reading[TaskStates]:
    """All runs. Raises StoreError."""
    return Ok(
        TaskStates(
            runs=tuple(records.tasks(world.store)),
            without_result=records.runs_without_result(world.store),
            listening=world.router_watch.look(report, world.clock.boottime()),
        )
    )
