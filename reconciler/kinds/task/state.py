"""What is known of the runs of tasks, and which step each may take next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.kinds.kind import Listening
from reconciler.store.records import CANCEL_REQUESTED as CANCEL_REQUESTED
from reconciler.store.records import AttemptRecord, GitRunRecord, ScheduleRecord, TaskRecord


class TaskState(StrEnum):
    """The states of a run. `checking`: it ended well, and its result is not accepted yet."""

    PENDING = "pending"
    AUTHORISED = "authorised"
    ASSIGNED = "assigned"
    RUNNING = "running"
    CHECKING = "checking"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


FOR_GOOD = "failed for good"
"""How the reason of a run begins whose agent need not try it again."""

ENDED: Mapping[str, str] = {
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.TIMED_OUT: "timed out",
    TaskState.CANCELLED: "was cancelled",
    TaskState.REJECTED: "was rejected",
}
"""How a run can end, as the end of a sentence about it."""
FINAL = frozenset(ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStates:
    """The runs that there may be something to do about, oldest first, and how many stand behind them.

    `around` are runs that those belong to or depend on, whatever their state, the newest of a name last. `more` says by
    run what else waits that was not read, `unread` counts that by agent. `in_git` are all runs of git in short.
    `unfinished` counts runs by schedule, `occurred` are runs for what was due later than a schedule has seen to.

    `without_result` names runs that count as succeeded but left no result behind. `unended` says how far those runs are
    whose end somebody wrote into the record by hand. `schedules` says by manifest what was seen to. `listening` is for
    how long the router has been seen to listen to each instance.
    """

    runs: tuple[TaskRecord, ...] = ()
    around: tuple[TaskRecord, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    in_git: tuple[GitRunRecord, ...] = ()
    unfinished: Mapping[str, int] = field(default_factory=dict)
    occurred: frozenset[str] = frozenset()
    without_result: frozenset[str] = frozenset()
    unended: Mapping[str, TaskState] = field(default_factory=dict)
    schedules: Mapping[str, ScheduleRecord] = field(default_factory=dict)
    listening: Listening = field(default_factory=Listening)

    def latest(self) -> Mapping[str, TaskRecord]:
        """The newest run of each name, of those that were read."""
        return {r.name: r for r in (*self.runs, *self.around)}


def states_of_all(runs: Sequence[TaskRecord]) -> TaskStates:
    """The same where all runs were read, as of a record that is looked at once."""
    return TaskStates(
        runs=tuple(runs),
        unfinished=Counter(r.schedule for r in runs if r.schedule and r.state not in FINAL),
        occurred=frozenset(r.run for r in runs if r.schedule),
    )


def how_far(run: TaskRecord, attempts: Sequence[AttemptRecord]) -> TaskState | None:
    """How far a run is that is recorded as over, though nothing ended it; None where its end is real.

    Whatever ends a run notes when, and closes its attempt, together.
    """
    if run.state not in FINAL:
        return None
    attempt = next((a for a in attempts if a.generation == run.generation), None)
    if attempt is not None and not attempt.ended_at:
        return TaskState.RUNNING if attempt.started_at else TaskState.ASSIGNED
    if run.finished_at:
        return None
    return TaskState.CHECKING if attempt is not None and attempt.outcome == "checking" else TaskState.PENDING


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
