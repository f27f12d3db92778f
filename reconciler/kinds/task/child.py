"""Runs that the hub makes for another run: the checks of its result, and its escalation to an agent. Pure.

Ids and names follow from the run and its generation, so that nothing is ever made twice.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from reconciler.core.digest import digest
from reconciler.kinds.task.spec import Check, TaskSpec
from reconciler.kinds.task.state import TaskState
from reconciler.store.records import TaskRecord

CHECK, ESCALATION = "check", "escalation"

_FORM = 'Answer with one JSON object and nothing else: {"accept": true or false, "reason": "why"}.'
_QUESTION = "Below is a task and the result that somebody came to. Does the result do what the task asks for?"
_TELL = "A task came to no good end, and you are told so that you can do something about it. Below is what is known."


def run_id(*parts: object) -> str:
    """A run id that these parts always give."""
    return hashlib.sha256("\0".join(str(p) for p in parts).encode()).hexdigest()[:12]


def check_id(parent: TaskRecord, step: int) -> str:
    """The id of the run that makes check number `step` of the present attempt."""
    return run_id(parent.run, parent.generation, CHECK, step)


def escalation_id(parent: TaskRecord) -> str:
    """The id of the run that tells an agent of the end of this run."""
    return run_id(parent.run, parent.generation, ESCALATION)


def check_run(parent: TaskRecord, spec: TaskSpec, step: int) -> TaskRecord:
    """A pending run for a check that takes an agent: a command in that of the run, or the verdict of another one."""
    check = spec.checks[step]
    asked = f"{check.prompt or _QUESTION}\n\n{_FORM}" if check.agent is not None else spec.prompt
    agent = check.agent or parent.agent
    name = f"{CHECK}-{parent.run}-{parent.generation}-{step}"
    return _child(parent, spec, check_id(parent, step), name, CHECK, step, {"agent": agent, "prompt": asked}, check)


def escalation_run(parent: TaskRecord, spec: TaskSpec, agent: str) -> TaskRecord:
    """A pending run that tells an agent. If that fails, too, the operator hears of it."""
    name = f"{ESCALATION}-{parent.run}-{parent.generation}"
    told = {"agent": agent, "prompt": _TELL, "escalate": {"to": "operator"}}
    return _child(parent, spec, escalation_id(parent), name, ESCALATION, 0, told, None)


def _child(
    parent: TaskRecord,
    spec: TaskSpec,
    id_: str,
    name: str,
    purpose: str,
    step: int,
    own: Mapping[str, Any],
    check: Check | None,
) -> TaskRecord:
    written = {
        "labels": json.loads(parent.manifest).get("labels", {}),
        "spec": {**own, "sensitivity": spec.sensitivity, "priority": spec.priority, "timeout": spec.timeout},
        **({"argv": list(check.command)} if check is not None and check.command is not None else {}),
    }
    return TaskRecord(
        run=id_,
        name=name,
        spec_digest=digest(written),
        manifest=json.dumps(written, sort_keys=True),
        source=parent.source,
        uid=parent.uid,
        revision=parent.revision,
        state=TaskState.PENDING,
        priority=parent.priority,
        created_at=parent.created_at,
        purpose=purpose,
        parent=parent.run,
        step=step,
    )
