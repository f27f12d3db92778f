"""Planning against another revision: what a fleet that is as that revision says would have to change. Pure.

Nothing is known of what runs. It is assumed that the base was carried out in full: all instances run, all tasks ended.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from reconciler.core.change import Action, Change, FieldChange, diff_fields
from reconciler.core.digest import digest
from reconciler.core.names import instance_name
from reconciler.core.plan import Plan
from reconciler.core.routing import Route, choose
from reconciler.kinds.agent.container import Places, build_container
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import Phase
from reconciler.kinds.egress.spec import is_wanted, write_config
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.policy.spec import NAME as POLICIES
from reconciler.kinds.policy.spec import Policies, is_opa_managed
from reconciler.kinds.schema.spec import MessageSchema
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import TaskState
from reconciler.loop.named import name_settings
from reconciler.loop.recorded import Assent, Recorded, guard_by, plan_by
from reconciler.store.records import InstanceRecord, ScheduleRecord, TaskRecord

UNTOUCHED = "changed in git; nothing that runs is touched"


def plan_against_base(desired: Desired, base: Desired, assent: Assent, now: datetime) -> Plan:
    """The guarded plan, each change with the fields that differ between the two revisions."""
    recorded = assume_applied(base, now)
    plan = plan_by(recorded, desired, Facts(now=now, boottime=0.0, boot_id=""), compared_with="base")
    plan = guard_by(plan, recorded, desired, assent)
    changes = [_as_written(c, base, desired) for c in plan.changes]
    plan = replace(plan, changes=(*changes, *_unseen(changes, base, desired)))
    return name_settings(plan, base.hub, desired.hub)


def assume_applied(base: Desired, now: datetime) -> Recorded:
    """The record of a hub that has carried out the revision, as far as it follows from the revision."""
    policies: Policies | None = base.of("policy").get(POLICIES)
    tasks: Mapping[str, Manifest[TaskSpec]] = base.of("task")
    return Recorded(
        revision=base.revision.id,
        instances=tuple(_instances(base, now.isoformat())),
        runs=tuple(_run(m, now.isoformat()) for m in tasks.values() if m.spec.schedule is None),
        schedules=tuple(_schedules(tasks.values(), now.isoformat())),
        schemas={name: schema.digest for name, schema in base.of("schema").items()},
        policy=policies.digest if policies is not None else "",
        is_opa_running=is_opa_managed(base.hub),
        router_config=str(base.route.get("digest", "")),
        egress_config=str(write_config(base, {})["digest"]) if is_wanted(base.hub) else None,
    )


def _instances(base: Desired, now: str) -> Iterator[InstanceRecord]:
    """Not those that are made for a task each: they come and go."""
    manifests: Mapping[str, Manifest[AgentSpec]] = base.of("agent")
    for name, manifest in manifests.items():
        if manifest.spec.mode == "per-task":
            continue
        written = json.dumps(manifest.written, sort_keys=True)
        for ordinal in range(manifest.spec.replicas):
            yield InstanceRecord(
                name=instance_name(name, ordinal),
                agent=name,
                ordinal=ordinal,
                phase=Phase.EXECUTING,
                spec_digest=manifest.digest,
                manifest=written,
                revision=base.revision.id,
                fields=_container_fields(base, manifest, ordinal),
                created_at=now,
                updated_at=now,
            )


def _container_fields(base: Desired, manifest: Manifest[AgentSpec], ordinal: int) -> str:
    """What planning reads of a container: how it reaches the router, and its model."""
    if manifest.spec.llm is None and not base.plane.address_of(manifest.name):
        return "{}"
    places = Places(fleet="", seal_key=b"", run=Path("/"), state=Path("/"), plane=base.plane)
    model = _model(base, manifest.spec)
    container = build_container(manifest.name, ordinal, manifest.spec, places, image_id="", uid=0, model=model)
    return json.dumps({"env": dict(container.env)})


def _model(base: Desired, spec: AgentSpec) -> str:
    hub = base.hub
    if spec.llm is None:
        return ""
    found = choose(spec.llm, hub.providers, hub.sensitivity.exposures, executor=spec.executor.type)
    return found.model if isinstance(found, Route) else ""


def _run(manifest: Manifest[TaskSpec], now: str) -> TaskRecord:
    return TaskRecord(
        run=f"{manifest.name}@base",
        name=manifest.name,
        spec_digest=manifest.digest,
        manifest="",
        source="git",
        state=TaskState.SUCCEEDED,
        created_at=now,
        finished_at=now,
    )


def _schedules(tasks: Iterable[Manifest[TaskSpec]], now: str) -> Iterator[ScheduleRecord]:
    for manifest in tasks:
        if (schedule := manifest.spec.schedule) is not None:
            yield ScheduleRecord(name=manifest.name, cron=schedule.cron, zone=schedule.zone, since=now)


def _as_written(change: Change, base: Desired, desired: Desired) -> Change:
    """The change in words of the two revisions: what was assumed about runs is not a reason."""
    before, after = (d.of(change.kind).get(change.name) for d in (base, desired))
    if before is None or after is None or before.digest == after.digest:
        return replace(change, reason="as in git") if change.action is Action.KEEP else change
    match change.action:
        case Action.KEEP:
            return replace(change, action=Action.UPDATE, reason=UNTOUCHED, fields=_differences(before, after))
        case Action.CREATE if isinstance(after, Manifest) and not change.instance:
            reason = "changed in git: it runs again, and what still runs of it is cancelled"
            return replace(change, reason=reason, fields=_differences(before, after))
        case Action.UPDATE if not change.instance:
            return replace(change, fields=_differences(before, after))
        case _:
            return change


def _unseen(changes: Sequence[Change], base: Desired, desired: Desired) -> Iterator[Change]:
    """What differs between the revisions and has nothing that runs: an agent without instances, a task taken out."""
    seen = {(c.kind, c.name) for c in changes}
    for kind in desired.loaded:
        old, new = base.of(kind), desired.of(kind)
        for name in sorted(old.keys() | new.keys()):
            before, after = old.get(name), new.get(name)
            if (kind, name) not in seen and (before is None or after is None or before.digest != after.digest):
                yield _unseen_change(kind, name, before, after)


def _unseen_change(kind: str, name: str, before: Any, after: Any) -> Change:
    if after is None and isinstance(before, Manifest) and isinstance(before.spec, TaskSpec):
        reason = "removed from git; it is cancelled if it has not ended"
        return Change(kind=kind, name=name, action=Action.CANCEL, reason=reason, spec_digest=before.digest)
    what = "removed from" if after is None else "new in" if before is None else "changed in"
    return Change(
        kind=kind,
        name=name,
        action=Action.UPDATE,
        reason=f"{what} git; it has no instances",
        fields=_differences(before, after),
        spec_digest=(after or before).digest,
    )


def _differences(before: Any, after: Any) -> tuple[FieldChange, ...]:
    """The fields in which a resource differs; of policies the modules, by their digests."""
    match before, after:
        case Manifest(), Manifest():
            return diff_fields(before.written, after.written)
        case MessageSchema(), MessageSchema():
            return diff_fields(before.schema, after.schema)
        case Policies(), Policies():
            return diff_fields(_contents(before), _contents(after))
        case _:
            return ()


def _contents(policies: Policies) -> Mapping[str, Any]:
    data = {key: value for key, value in policies.bundle.data.items() if key != "hub"}
    return {
        **{path: digest(text) for path, text in policies.bundle.modules.items()},
        **({"data": data} if data else {}),
    }
