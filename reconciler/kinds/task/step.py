"""One step of a run: what the plan hands to applying, as the `spec` of a change. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from reconciler.core.change import Action, Cause, Change
from reconciler.core.fleet import AgentView, InstanceView
from reconciler.core.quantity import NORMALISED
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import TaskState
from reconciler.store.records import DELEGATION, ScheduleRecord, TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWork:
    """What applying needs: the run as it was when planning, and what was decided about it.

    `new` are runs to be recorded, unless they are there. `schedule` is what a schedule has seen to now, `ended` names
    one that is gone. `parents` are runs by the name of their task. `is_fallback`: to an agent after another one failed.
    `delegation` is what policy is asked about a delegated run besides; `answers`: who asked for it is told of its end.
    `epoch` is the life of the router that planning knew; empty where it did not answer.
    """

    run: TaskRecord | None = None
    manifest: Manifest[TaskSpec] | None = None
    spec: TaskSpec | None = None
    agent: AgentView | None = None
    instance: InstanceView | None = None
    state: TaskState | None = None
    reason: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)
    is_fallback: bool = False
    new: tuple[TaskRecord, ...] = ()
    schedule: ScheduleRecord | None = None
    ended: str = ""
    child: TaskRecord | None = None
    remedy: str = ""
    delegation: Mapping[str, Any] | None = None
    answers: bool = False
    epoch: str = ""


@lru_cache(maxsize=16384)
def recorded_spec(manifest: str) -> TaskSpec:
    """The spec of a recorded run."""
    return TaskSpec.model_validate(json.loads(manifest)["spec"], context=NORMALISED)


def cause_of(run: TaskRecord) -> Cause:
    """Why a run is there."""
    if run.purpose == DELEGATION:
        return Cause.DELEGATION
    if run.schedule:
        return Cause.SCHEDULE
    return {"git": Cause.COMMIT, "inbox": Cause.INBOX}.get(run.source, Cause.OPERATOR)


def task_change(
    name: str,
    action: Action,
    reason: str,
    digest: str,
    work: TaskWork,
    cause: Cause = Cause.COMMIT,
    wait_s: float | None = None,
) -> Change:
    """A change of one task."""
    return Change(
        kind="task", name=name, action=action, cause=cause, reason=reason, spec_digest=digest, spec=work, wait_s=wait_s
    )
