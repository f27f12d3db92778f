"""What a change of an instance carries, and the steps that several decisions share: drain, end, orphan. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.quantity import NORMALISED, show_duration
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.kinds.kind import Facts
from reconciler.kinds.manifest import Manifest
from reconciler.store.records import OrderRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceWork:
    """What applying needs: whose instance, by which manifest, and what was there when planning.

    `phase` and `crashes` are what the record shall say from now on, None where it stays; `grace_s` is the time to end;
    `outdated` names secrets whose files are all that there is to renew. `revision` is the one that the manifest is of,
    where that is not the desired one; `previous` and `rejected` are for the record of what is made. `order` is done
    with this change. `drops_workspace`: its own workspace goes with it; `heir` is the instance that gets it instead.
    `failed` says why a roll-out went wrong here. `model` is what was chosen for its executor.
    """

    manifest: Manifest[AgentSpec] | None
    ordinal: int
    state: InstanceState
    image_id: str = ""
    model: str = ""
    phase: Phase | None = None
    crashes: int | None = None
    grace_s: float = 10.0
    outdated: tuple[str, ...] = ()
    revision: str = ""
    previous: str = ""
    rejected: str = ""
    order: OrderRecord | None = None
    drops_workspace: bool = False
    heir: str = ""
    failed: str = ""


def end(
    state: InstanceState,
    agent: str,
    cause: Cause,
    reason: str,
    facts: Facts,
    *,
    why: str = "",
    fields: tuple[FieldChange, ...] = (),
    is_scaling: bool = False,
    action: Action = Action.REMOVE,
) -> Change:
    """The instance goes: drained first while it has tasks, and `why` is then the reason.

    `action` is DEACTIVATE for one that will come again when there is work.
    """
    record = state.record
    if record is None or (state.container is not None and not state.sealed):
        return orphan(state, agent, InstanceWork(manifest=None, ordinal=record.ordinal if record else 0, state=state))
    spec = recorded_spec(record.manifest)
    work = InstanceWork(
        manifest=None,
        ordinal=record.ordinal,
        state=state,
        grace_s=spec.lifecycle.grace,
        drops_workspace=not spec.workspace.retain,
    )
    busy = facts.busy.get(state.name, 0)
    if draining := drain(state, busy, spec.lifecycle.drain_deadline, facts, agent, work, why or reason):
        fields = (*draining.fields, *fields)
        return replace(draining, cause=cause, towards=action, fields=fields, is_scaling=is_scaling)
    return Change(
        kind="agent",
        name=agent,
        instance=state.name,
        action=action,
        cause=cause,
        reason=reason if not busy else f"{reason}; its {busy} tasks did not end in time",
        fields=fields,
        disruptive=busy > 0,
        spec_digest=record.spec_digest,
        spec=work,
        is_scaling=is_scaling,
    )


def orphan(state: InstanceState, agent: str, work: InstanceWork) -> Change:
    """A container without a record: ours by its seal, or not ours at all."""
    if not state.sealed:
        return Change(
            kind="agent",
            name=agent,
            instance=state.name,
            action=Action.HOLD,
            cause=Cause.DRIFT,
            reason="a container carries this fleet's label but not its seal; it is not ours and is left alone",
            spec=work,
        )
    return Change(
        kind="agent",
        name=agent,
        instance=state.name,
        action=Action.RECYCLE,
        cause=Cause.DRIFT,
        reason="its container has no record: an orphan",
        disruptive=True,
        spec=work,
    )


def drain(
    state: InstanceState, busy: int, deadline_s: float, facts: Facts, agent: str, work: InstanceWork, why: str
) -> Change | None:
    """While tasks run: first mark the instance as draining, then wait for them until the deadline."""
    record = state.record
    if not busy or record is None or state.container is None or state.container.state != "running":
        return None
    common: dict[str, Any] = {"kind": "agent", "name": agent, "instance": state.name}
    if record.phase != Phase.UPGRADING:
        return Change(
            **common,
            action=Action.UPDATE,
            reason=f"{why}: no new tasks, waiting for {busy} running",
            fields=(FieldChange(path="phase", before=record.phase, after=str(Phase.UPGRADING)),),
            spec_digest=record.spec_digest,
            spec=replace(work, phase=Phase.UPGRADING),
        )
    left = deadline_s - (facts.now - datetime.fromisoformat(record.updated_at)).total_seconds()
    if left <= 0:
        return None
    return Change(
        **common,
        action=Action.HOLD,
        reason=f"draining: {busy} running, at most {show_duration(round(left))} more",
        wait_s=left,
        spec=work,
    )


@lru_cache(maxsize=4096)
def recorded_spec(manifest: str) -> AgentSpec:
    """The spec of a manifest as recorded (JSON)."""
    return AgentSpec.model_validate(json.loads(manifest)["spec"], context=NORMALISED)


@lru_cache(maxsize=4096)
def recorded_fields(fields: str) -> Mapping[str, Any]:
    """The container's compared fields as recorded (JSON)."""
    found: Mapping[str, Any] = json.loads(fields)
    return found
