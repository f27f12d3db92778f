"""The export: what a hub's record says of its fleet, for planning elsewhere; nothing secret or private is in it.

Left out are tokens, keys and seals, what agents said, and tasks that are not from git. What is read is checked whole,
since planning trusts it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
from pydantic import ValidationError

from reconciler.core.change import Action, Change
from reconciler.core.names import instance_name
from reconciler.core.plan import Plan
from reconciler.core.problem import Problem
from reconciler.kinds.agent.container import recorded_model
from reconciler.kinds.agent.state import Phase
from reconciler.kinds.agent.step import recorded_spec as recorded_agent
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.route_entry import ADDRESS, recorded_address
from reconciler.kinds.task.state import CANCEL_REQUESTED, FINAL, TaskState
from reconciler.kinds.task.step import recorded_spec as recorded_task
from reconciler.loop.recorded import Assent, Recorded, guard_by, not_known, plan_by
from reconciler.store.records import InstanceRecord, TaskRecord, TrustRecord

FORMAT = 1
MAX_BYTES = 64 * 2**20
API_VERSION, KIND = "reconciler/v1", "Export"
WITHHELD = "as `reconciler status` says there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One fleet as it was at `time`."""

    recorded: Recorded
    time: datetime
    release: str


class _Metadata(msgspec.Struct, kw_only=True):
    fleet: str
    time: str
    release: str
    format: int


class _Head(msgspec.Struct, kw_only=True):
    """What every format has, so that a newer one is known as such."""

    apiVersion: str  # noqa: N815 - as in all documents
    kind: str
    metadata: _Metadata


class _Document(_Head, kw_only=True):
    state: Recorded


def write_export(recorded: Recorded, now: datetime, release: str) -> dict[str, Any]:
    """The JSON document."""
    public = replace(
        recorded,
        instances=tuple(_public_instance(r) for r in sorted(recorded.instances, key=lambda r: r.name)),
        runs=_public_runs(recorded.runs),
        without_result=frozenset(),
        unended={},
        trust=tuple(TrustRecord(agent=t.agent, score=t.score, at=t.at) for t in recorded.trust),
    )
    metadata = _Metadata(fleet=recorded.fleet, time=now.isoformat(), release=release, format=FORMAT)
    document = _Document(apiVersion=API_VERSION, kind=KIND, metadata=metadata, state=public)
    value: dict[str, Any] = msgspec.to_builtins(document, order="deterministic")
    return value


def read_export(content: bytes, where: str) -> Export | Problem:
    """An export, or what is wrong with it. `where` is what a person calls it."""
    try:
        head = msgspec.json.decode(content, type=_Head)
        if (head.apiVersion, head.kind) != (API_VERSION, KIND):
            return Problem(file=where, message="is no export; make one with `reconciler plan --export FILE`")
        if head.metadata.format != FORMAT:
            found = f"is of format {head.metadata.format}, written by release {head.metadata.release}"
            return Problem(file=where, message=f"{found}; this release reads format {FORMAT}: use that one here, too")
        document = msgspec.json.decode(content, type=_Document)
        time = _moment(head.metadata.time, "metadata.time")
        _check(document.state)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        return Problem(file=where, message=f"is damaged, or no export: {exc}; make it anew")
    if document.state.fleet != head.metadata.fleet:
        return Problem(file=where, message="mixes two fleets: metadata and state name different ones; make it anew")
    return Export(recorded=document.state, time=time, release=head.metadata.release)


def plan_against_export(desired: Desired, export: Export, assent: Assent) -> Plan:
    """The guarded plan for the moment of the export. What its tasks were about to do goes on without a word."""
    recorded = export.recorded
    facts = Facts(now=export.time, boottime=0.0, boot_id="", is_fleet_known=False)
    plan = plan_by(recorded, desired, facts, compared_with="export")
    plan = replace(plan, changes=tuple(_as_exported(c) for c in plan.changes))
    return guard_by(plan, recorded, desired, assent)


def _as_exported(change: Change) -> Change:
    if change.kind == "task" and change.action is Action.HOLD:
        return replace(change, action=Action.KEEP, reason="under way when exported", wait_s=None)
    return not_known(change, "not in the export")


def _public_instance(record: InstanceRecord) -> InstanceRecord:
    """What planning goes by; of the container only how it reaches the router, and its model."""
    return InstanceRecord(
        name=record.name,
        agent=record.agent,
        ordinal=record.ordinal,
        phase=record.phase,
        spec_digest=record.spec_digest,
        manifest=record.manifest,
        revision=record.revision,
        image_id=record.image_id,
        fields=_public_fields(record.fields),
        created_at=record.created_at,
        updated_at=record.updated_at,
        crashes=record.crashes,
        reason=WITHHELD if record.reason else "",
        rejected=_public_rejection(record.rejected),
    )


def _public_fields(fields: str) -> str:
    env: Mapping[str, str] = json.loads(fields).get("env", {})
    kept = {ADDRESS: recorded_address(fields)} if ADDRESS in env else {}
    if "HUB_CONFIG" in env:
        kept["HUB_CONFIG"] = json.dumps({"executor": {"model": recorded_model(fields)}})
    return json.dumps({"env": kept})


def _public_rejection(rejected: str) -> str:
    if not rejected:
        return ""
    said = json.loads(rejected)
    return json.dumps({"digest": said["digest"], "image_id": said["image_id"], "why": WITHHELD}, sort_keys=True)


def _public_runs(runs: Sequence[TaskRecord]) -> tuple[TaskRecord, ...]:
    """Those that git asked for: all that are not over, and of the others the newest of each name and digest."""
    asked = [r for r in runs if r.source == "git" and not r.purpose]
    newest = {(r.name, r.spec_digest): r.run for r in asked}
    return tuple(_public_run(r) for r in asked if r.state not in FINAL or newest[r.name, r.spec_digest] == r.run)


def _public_run(run: TaskRecord) -> TaskRecord:
    is_over = run.state in FINAL
    return TaskRecord(
        run=run.run,
        name=run.name,
        spec_digest=run.spec_digest,
        manifest="" if is_over else run.manifest,
        source=run.source,
        revision=run.revision,
        state=run.state,
        reason=CANCEL_REQUESTED if not is_over and run.reason.startswith(CANCEL_REQUESTED) else "",
        priority=run.priority,
        agent=run.agent,
        instance=run.instance,
        generation=run.generation,
        attempts=run.attempts,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        schedule=run.schedule,
        due=run.due,
    )


def _check(recorded: Recorded) -> None:
    """What types do not say. Raises ValueError with the place."""
    for number, record in enumerate(recorded.instances):
        place = f"state.instances[{number}]"
        if record.name != instance_name(record.agent, record.ordinal) or record.phase not in set(Phase):
            raise ValueError(f"{place} is no instance of an agent")
        _check_manifest(record.manifest, recorded_agent, f"{place}.manifest")
        _moment(record.created_at, f"{place}.created_at")
        _moment(record.updated_at, f"{place}.updated_at")
        _check_fields(record, f"{place}.fields")
        if record.rejected:
            _check_rejection(record.rejected, f"{place}.rejected")
    for number, run in enumerate(recorded.runs):
        place = f"state.runs[{number}]"
        if run.state not in set(TaskState):
            raise ValueError(f"{place}.state is {run.state!r}, which is no state of a task")
        if run.state not in FINAL:
            _check_manifest(run.manifest, recorded_task, f"{place}.manifest")
        _moment(run.created_at, f"{place}.created_at")
    for place, text in _moments(recorded):
        _moment(text, place)


def _moments(recorded: Recorded) -> Iterator[tuple[str, str]]:
    yield from ((f"state.schedules[{n}].since", s.since) for n, s in enumerate(recorded.schedules))
    yield from ((f"state.trust[{n}].at", t.at) for n, t in enumerate(recorded.trust))


def _check_manifest(text: str, read: Any, place: str) -> None:
    try:
        read(text)
        labels = json.loads(text)["labels"]
    except (ValueError, KeyError, TypeError, ValidationError) as exc:
        raise ValueError(f"{place} is no manifest that this release can read") from exc
    if not isinstance(labels, dict):
        raise ValueError(f"{place} has no labels")


def _check_fields(record: InstanceRecord, place: str) -> None:
    try:
        recorded_address(record.fields)
        if '"llm"' in record.manifest:
            recorded_model(record.fields)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"{place} does not say what its container was told") from exc


def _check_rejection(text: str, place: str) -> None:
    value = json.loads(text)
    if not isinstance(value, dict) or not {"digest", "image_id", "why"} <= value.keys():
        raise ValueError(f"{place} does not say what was taken back")


def _moment(text: str, place: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ValueError(f"{place} is {text[:40]!r}, which is no time") from exc
    if moment.tzinfo is None:
        raise ValueError(f"{place} has no time zone")
    return moment
