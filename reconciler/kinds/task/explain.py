"""Why a task does not run, or what it does, in one sentence. Pure: its run and what is planned for it come in.

The reason is the plan's: there is no second opinion. What keeps a change from being applied comes in beside it.
"""

from collections.abc import Sequence

from reconciler.core.change import Action, Change, show_suspended
from reconciler.core.condition import Mode
from reconciler.core.quantity import show_duration
from reconciler.kinds.task.delegation import delegated_by
from reconciler.kinds.task.state import ENDED, FINAL, TaskState
from reconciler.store.records import TaskRecord, UnitRecord

_NEW_WORK = (Action.CREATE, Action.DISPATCH)


def explain_task(
    run: TaskRecord, change: Change | None, unit: UnitRecord | None = None, mode: Mode = Mode.NORMAL
) -> str:
    """One sentence. `change` is what the hub plans for it; None where no hub runs, or it has nothing to do with it."""
    subject = f"task {run.name} (run {run.run}{delegated_by(run)})"
    if run.state in FINAL:
        return f"{subject} is over: {_ended(run)}."
    if run.state == TaskState.RUNNING:
        return f"{subject} is running: {_first(change, run)}."
    return f"{subject} is not running, it is {run.state}: {_obstacle(change, unit, mode) or _first(change, run)}."


def explain_in_line(
    run: TaskRecord, head: Change | None, *, ahead: int, waits_for: Sequence[str], wait_s: float
) -> str:
    """The same of a run that is only counted in the plan; `head` is what is planned for the first in its line.

    `ahead` are those that come first, `waits_for` names what it depends on and has not succeeded; it may be tried again
    in `wait_s`.
    """
    if waits_for:
        why = f"waiting for {waits_for[0]}"
    elif wait_s > 0:
        why = f"next attempt in {show_duration(round(wait_s, 1))}: {run.reason}"
    elif run.state == TaskState.PENDING:
        why = f"policy is asked about {ahead} others first"
    else:
        first = f", and of the first of them, {head.name}, the plan says: {head.reason}" if head is not None else ""
        why = f"{ahead} others come first for {run.agent}{first}"
    return f"task {run.name} (run {run.run}) is not running, it is {run.state}: {why}."


def explain_schedule(name: str, change: Change, last: TaskRecord | None) -> str:
    """The same of a task that runs by the clock."""
    before = f"its last run, {last.name}, is {last.state.replace('_', ' ')}" if last else "it has not run yet"
    return f"task {name} runs by its schedule: {change.reason}; {before}."


def explain_without_hub(run: TaskRecord) -> str:
    """The same from the record alone."""
    if run.state in FINAL:
        return explain_task(run, None)
    reason = f": {run.reason}" if run.reason else ""
    return f"task {run.name} (run {run.run}) is {run.state}{reason}, and no hub runs to go on with it."


def _ended(run: TaskRecord) -> str:
    ended = f"it {ENDED[run.state]}"
    if run.state == TaskState.SUCCEEDED:
        return f"{ended} on {run.instance}" if run.instance else ended
    told = f" (escalated: {run.escalated})" if run.escalated else ""
    return f"{ended}: {run.reason}{told}" if run.reason else f"{ended}{told}"


def _obstacle(change: Change | None, unit: UnitRecord | None, mode: Mode) -> str:
    """What keeps the change from being applied."""
    if change is None or change.action in (Action.HOLD, Action.KEEP):
        return ""
    if mode is Mode.DEGRADED and change.action in _NEW_WORK:
        return f"the hub is degraded and dispatches nothing new ({change.reason})"
    if unit is not None and unit.stalled:
        return f"stalled after {unit.same_failures} identical failures, until another revision: {unit.reason}"
    if unit is not None:
        return f"it failed {unit.failures} times and is tried again soon: {unit.reason}"
    return ""


def _first(change: Change | None, run: TaskRecord) -> str:
    if change is not None and change.suspended is not None:
        return show_suspended(change.suspended)
    return change.reason if change is not None else run.reason or "the hub has not looked at it yet"
