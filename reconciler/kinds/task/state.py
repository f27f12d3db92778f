"""What is known of the runs of tasks, and which step each may take next."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.kinds.kind import Listening
from reconciler.store.records import CANCEL_REQUESTED as CANCEL_REQUESTED
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


FINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CANCELLED, TaskState.REJECTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStates:
    """All runs, oldest first; `without_result` names runs that count as succeeded but left no result behind.

    `listening` is for how long the router has been seen to listen to each instance.
    """

    runs: tuple[TaskRecord, ...] = ()
    without_result: frozenset[str] = frozenset()
    listening: Listening = field(default_factory=Listening)

    def latest(self) -> Mapping[str, TaskRecord]:
        """The newest run of each name."""
        return {r.name: r for r in self.runs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many runs each instance has, and the fleet as a whole; `by_agent` counts those that wait for one too."""

    by_instance: dict[str, int] = field(default_factory=dict)
    by_agent: dict[str, int] = field(default_factory=dict)
    total: int = 0


def load_of(runs: tuple[TaskRecord, ...]) -> Load:
    """Runs that are assigned or running, counted."""
    by_instance: Counter[str] = Counter()
    by_agent: Counter[str] = Counter()
    for run in runs:
        if run.state in (TaskState.ASSIGNED, TaskState.RUNNING):
            by_instance[run.instance] += 1
        if run.state in (TaskState.AUTHORISED, TaskState.ASSIGNED, TaskState.RUNNING):
            by_agent[run.agent] += 1
    return Load(by_instance=by_instance, by_agent=by_agent, total=by_instance.total())
