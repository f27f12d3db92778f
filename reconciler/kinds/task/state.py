"""What is known of the runs of tasks, and which step each may take next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.store.records import TaskRecord


class TaskState(StrEnum):
    """The states of a run (design, §5.2)."""

    PENDING = "pending"
    AUTHORISED = "authorised"
    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


FINAL = frozenset(
    {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CANCELLED, TaskState.REJECTED}
)
CANCEL_REQUESTED = "cancel requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStates:
    """All runs, oldest first; `without_result` names runs that count as succeeded but left no result behind."""

    runs: tuple[TaskRecord, ...] = ()
    without_result: frozenset[str] = frozenset()

    def latest(self) -> Mapping[str, TaskRecord]:
        """The newest run of each name."""
        return {r.name: r for r in self.runs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many runs each instance has, and the fleet as a whole."""

    by_instance: Mapping[str, int] = field(default_factory=dict)
    total: int = 0


def load_of(runs: tuple[TaskRecord, ...]) -> Load:
    """Runs that are assigned or running, counted."""
    counts: dict[str, int] = {}
    for run in runs:
        if run.state in (TaskState.ASSIGNED, TaskState.RUNNING):
            counts[run.instance] = counts.get(run.instance, 0) + 1
    return Load(by_instance=counts, total=sum(counts.values()))
