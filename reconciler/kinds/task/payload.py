"""What an agent is told of a run: the message `task.assigned`, from the run and what is known around it. Pure."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.trace import traceparent_of
from reconciler.kinds.task.child import ESCALATION
from reconciler.kinds.task.spec import REMEDIATION, TaskSpec
from reconciler.store.records import ResultRecord, TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is told besides run and spec.

    `parents` are the results of what it depends on, `before` is that of its own last attempt. `subject` is the run that
    a check or an escalation is about, with its result.
    """

    parents: Mapping[str, ResultRecord | None] = field(default_factory=dict)
    before: ResultRecord | None = None
    subject: TaskRecord | None = None
    subject_result: ResultRecord | None = None
    read_artefact: Callable[[str], bytes | None]
    workspace: str
    lease_s: float


def write_assignment(run: TaskRecord, spec: TaskSpec, told: Told) -> dict[str, Any]:
    """The order for the router."""
    argv = json.loads(run.manifest).get("argv")
    return {
        "instance": run.instance,
        "message": {
            "id": f"{run.run}-{run.generation}",
            "type": "task.assigned",
            "pattern": "request",
            "traceparent": traceparent_of(run.run, run.generation),
            "payload": {
                "task": run.name,
                "run": run.run,
                "generation": run.generation,
                "lease_s": told.lease_s,
                "timeout_s": spec.timeout,
                "prompt": spec.prompt,
                "input": _input(run, spec, told),
                "parents": {name: _result(found) for name, found in told.parents.items()},
                "workspace": told.workspace,
                "output": {"maxSize": spec.output.max_size, "artefacts": list(spec.output.artefacts)},
                "sensitivity": spec.sensitivity,
                **({"argv": argv} if argv else {}),
            },
        },
    }


def _input(run: TaskRecord, spec: TaskSpec, told: Told) -> Mapping[str, Any]:
    subject = told.subject
    if subject is None:
        remedy = {"reason": run.remedy, "result": _result(told.before)} if run.remedy else None
        return {**spec.input, REMEDIATION: remedy} if remedy else spec.input
    asked = json.loads(subject.manifest)["spec"]
    about = {
        "task": subject.name,
        "run": subject.run,
        "prompt": asked.get("prompt", ""),
        "input": asked.get("input", {}),
    }
    if run.purpose == ESCALATION:
        error = told.subject_result.error if told.subject_result is not None else ""
        ended = {"state": subject.state, "reason": subject.reason, "attempts": subject.attempts, "error": error}
        return {**about, **ended}
    return {**about, "result": _result(told.subject_result), "artefacts": _artefacts(told)}


def _result(found: ResultRecord | None) -> Any:
    return json.loads(found.result) if found is not None else None


def _artefacts(told: Told) -> list[Mapping[str, Any]]:
    """Name, size and digest of each, and its text where it is text."""
    listed = json.loads(told.subject_result.artefacts) if told.subject_result is not None else []
    return [{**item, "text": _text(told.read_artefact(item["sha256"]))} for item in listed]


def _text(content: bytes | None) -> str | None:
    try:
        return content.decode() if content is not None else None
    except UnicodeDecodeError:
        return None
