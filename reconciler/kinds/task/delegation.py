"""Runs that other runs asked for: who may have one, with which capabilities, and what is told of its end. Pure.

A request becomes a pending run for the run that asked. Capabilities, depth and budget are bounded by every run above
it, by what their agents' manifests say; policy is asked beside that, and can only refuse.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from reconciler.core.digest import digest
from reconciler.core.exposure import highest
from reconciler.core.fleet import AgentView, Fleet
from reconciler.core.names import instance_name
from reconciler.core.quantity import NORMALISED
from reconciler.kinds.task.child import run_id
from reconciler.kinds.task.routing import Exposures, candidates, why_nobody
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import CANCEL_REQUESTED, FINAL, TaskState
from reconciler.kinds.task.step import recorded_spec
from reconciler.ports import InboxMessage
from reconciler.store.records import DELEGATION, ResultRecord, TaskRecord

REQUEST = "delegation.request"
KEPT_S = 86400.0
"""How long an answer waits for who asked."""

_UNDER_WAY = (TaskState.ASSIGNED, TaskState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a delegated run may have: the agent as this run sees it, and what policy is asked, but for the time."""

    run: TaskRecord
    agent: AgentView
    question: Mapping[str, Any]


def delegation_id(parent: TaskRecord, request: str) -> str:
    """The id of the run that the present attempt of `parent` asked for by this request."""
    return run_id(parent.run, parent.generation, DELEGATION, request)


def delegated_run(parent: TaskRecord, row: InboxMessage, ordinal: int, now: datetime) -> TaskRecord:
    """A pending run for a request that fits its schema. Raises ValueError for a task that cannot be."""
    asked, above = row.payload, recorded_spec(parent.manifest)
    spec: dict[str, Any] = {name: asked[name] for name in ("agent", "requires", "prompt", "input") if name in asked}
    spec["sensitivity"] = highest([above.sensitivity, asked.get("sensitivity", above.sensitivity)])
    spec["timeout"] = float(asked.get("timeout_s", above.timeout))
    spec["priority"] = above.priority
    spec = TaskSpec.model_validate(spec, context=NORMALISED).written()
    id_ = delegation_id(parent, row.id)
    written = {
        "labels": json.loads(parent.manifest).get("labels", {}),
        "spec": spec,
        DELEGATION: {
            "request": row.id,
            "by": parent.name,
            "instance": row.instance,
            "generation": parent.generation,
            "depth": depth(parent) + 1,
            "asked": asked.get("capabilities"),
            "capabilities": [],
        },
    }
    return TaskRecord(
        run=id_,
        name=f"{DELEGATION}-{id_}",
        spec_digest=digest(written),
        manifest=json.dumps(written, sort_keys=True),
        source=parent.source,
        uid=parent.uid,
        revision=parent.revision,
        state=TaskState.PENDING,
        priority=parent.priority,
        created_at=now.isoformat(),
        purpose=DELEGATION,
        parent=parent.run,
        step=ordinal,
    )


def depth(run: TaskRecord) -> int:
    """How many delegations led to the run; 0 for one that nobody delegated."""
    return int(_asked(run)["depth"]) if run.purpose == DELEGATION else 0


def may_ask(run: TaskRecord, instance: str) -> bool:
    """Whether the run is under way on this instance, and is to go on."""
    return run.state in _UNDER_WAY and run.instance == instance and not run.reason.startswith(CANCEL_REQUESTED)


def why_abandoned(run: TaskRecord, parent: TaskRecord) -> str:
    """Why nobody waits for a delegated run any more; empty while somebody does."""
    if may_ask(parent, _asked(run)["instance"]) and parent.generation == _asked(run)["generation"]:
        return ""
    if parent.state in _UNDER_WAY and parent.reason.startswith(CANCEL_REQUESTED):
        return f"{parent.name}, which delegated it, is being cancelled"
    return f"{parent.name}, which delegated it, does not run on {_asked(run)['instance']} any more"


def as_delegate(agent: AgentView, run: TaskRecord) -> AgentView:
    """The agent as a delegated run sees it: one instance of its own, and what was granted."""
    own = tuple(i for i in agent.delegates if i.name == instance_name(agent.name, run.step))
    given = tuple(_asked(run)["capabilities"])
    return replace(agent, capabilities=given, max_parallel=1, replicas=len(own), instances=own)


def weigh(run: TaskRecord, runs: Mapping[str, TaskRecord], fleet: Fleet, exposures: Exposures) -> Grant | str:
    """What a pending run may have by the manifests, or why it may not be. `runs` are all, by id."""
    spec, parent = recorded_spec(run.manifest), runs[run.parent]
    above = list(_above(run, runs))
    gone = next((r.agent for r in above if r.agent not in fleet), None)
    if gone is not None:
        return f"agent {gone} is not in the fleet"
    asker = fleet[parent.agent]
    own = tuple(_asked(parent)["capabilities"]) if parent.purpose == DELEGATION else asker.capabilities
    able = candidates(spec, fleet, exposures)
    if not able:
        return why_nobody(spec, fleet, exposures)
    named = [a for a in able if a.name in asker.delegation.to]
    if not named:
        return f"{asker.name} may not delegate to {' or '.join(a.name for a in able)} (delegation.to)"
    deepest = min(fleet[r.agent].delegation.max_depth for r in above)
    if depth(run) > deepest:
        return f"depth {depth(run)} is more than {deepest} (delegation.maxDepth)"
    fit = [a for a in named if a.has(tuple(_asked(run)["asked"] or ()))]
    agent = min(fit or named, key=lambda a: (len(a.delegates), -a.trust, a.name))
    wanted = _wanted(run, spec, own, agent)
    for whose, has in ((f"{parent.name} on {asker.name}", own), (agent.name, agent.capabilities)):
        if lacking := sorted(set(wanted) - set(has)):
            return f"{whose} lacks {', '.join(lacking)}"
    left = _left(run, above, runs, fleet)
    if left.get("tasks", 1) < 1:
        return "no task is left of the budget (delegation.budget.tasks)"
    if left.get("cpus", agent.cpus) < agent.cpus:
        return f"{agent.name} takes {agent.cpus:g} cpus, {left['cpus']:g} are left (delegation.budget.cpus)"
    question = {
        "parent": {
            **_show(asker, own),
            "delegation": {"to": list(asker.delegation.to), "maxDepth": deepest},
        },
        "child": _show(agent, agent.capabilities),
        "task": {
            "name": run.name,
            "labels": json.loads(run.manifest)["labels"],
            "sensitivity": spec.sensitivity,
            "source": run.source,
        },
        "depth": depth(run),
        "capabilities": list(wanted),
        "budget_left": left,
    }
    granted = _grant(run, wanted)
    return Grant(run=granted, agent=as_delegate(agent, granted), question=question)


def is_answered(run: TaskRecord, epoch: str) -> bool:
    """Whether who asked was told of its end in this life of the router."""
    return run.sent_epoch == _answered(epoch)


def mark_answered(run: TaskRecord, epoch: str) -> TaskRecord:
    return replace(run, sent_epoch=_answered(epoch))


def write_answer(run: TaskRecord, result: ResultRecord | None) -> dict[str, Any]:
    """The order for the router: what became of a run that has ended, for who asked."""
    asked = _asked(run)
    told = {
        "ok": run.state == TaskState.SUCCEEDED,
        "task": run.name,
        "run": run.run,
        "state": run.state,
        "agent": run.agent,
        "capabilities": asked["capabilities"],
        "reason": run.reason,
        "result": json.loads(result.result) if result is not None else None,
        "error": result.error if result is not None else "",
        "artefacts": json.loads(result.artefacts) if result is not None else [],
    }
    answer = _answer(asked["instance"], asked["request"], told)
    answer["message"]["id"] = f"{run.run}-answer"
    answer["message"]["sensitivity"] = recorded_spec(run.manifest).sensitivity
    return answer


def write_refusal(row: InboxMessage, reason: str) -> dict[str, Any]:
    """The same for a request of which no run was made."""
    return _answer(row.instance, row.id, {"ok": False, "state": TaskState.REJECTED, "reason": reason})


def _answer(instance: str, request: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    message = {
        "type": REQUEST,
        "pattern": "reply",
        "correlation_id": request,
        "ttl_s": KEPT_S,
        "payload": dict(payload),
    }
    return {"instance": instance, "message": message}


def _answered(epoch: str) -> str:
    return f"answered {epoch}"


def _asked(run: TaskRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(run.manifest)[DELEGATION]
    return found


def _above(run: TaskRecord, runs: Mapping[str, TaskRecord]) -> Iterator[TaskRecord]:
    """The runs above one, from the one that asked for it."""
    while run.purpose == DELEGATION and run.parent in runs:
        run = runs[run.parent]
        yield run


def _wanted(run: TaskRecord, spec: TaskSpec, own: tuple[str, ...], agent: AgentView) -> tuple[str, ...]:
    """The capabilities that were asked for; where nothing was said, what both sides have."""
    asked = _asked(run)["asked"]
    if asked is not None:
        return tuple(asked)
    return spec.requires or tuple(c for c in agent.capabilities if c in own)


def _grant(run: TaskRecord, capabilities: tuple[str, ...]) -> TaskRecord:
    written = json.loads(run.manifest)
    written[DELEGATION]["capabilities"] = list(capabilities)
    return replace(run, manifest=json.dumps(written, sort_keys=True))


def _left(run: TaskRecord, above: list[TaskRecord], runs: Mapping[str, TaskRecord], fleet: Fleet) -> dict[str, float]:
    """The least that is left of the budgets of all runs above, before this one; what is not limited is not there."""
    earlier = [
        r for r in runs.values() if r.purpose == DELEGATION and r.step < run.step and r.state != TaskState.REJECTED
    ]
    left: dict[str, float] = {}
    for top in above:
        below = [r for r in earlier if _is_below(r, top, runs)]
        limits = fleet[top.agent].delegation
        in_use = sum(fleet[r.agent].cpus for r in below if r.state not in FINAL and r.agent in fleet)
        for name, limit, used in (("tasks", limits.tasks, len(below)), ("cpus", limits.cpus, in_use)):
            if limit is not None:
                left[name] = min(left.get(name, limit - used), limit - used)
    return left


def _is_below(run: TaskRecord, top: TaskRecord, runs: Mapping[str, TaskRecord]) -> bool:
    """Whether the present attempt of `top` led to the run."""
    link = run
    for each in _above(run, runs):
        if each.run == top.run:
            return bool(_asked(link)["generation"] == top.generation)
        link = each
    return False


def _show(agent: AgentView, capabilities: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": agent.name,
        "role": agent.role,
        "labels": dict(agent.labels),
        "capabilities": list(capabilities),
        "trust": agent.trust,
        "exposure": agent.exposure,
        "sandboxed": agent.sandboxed,
    }


def delegated_by(run: TaskRecord) -> str:
    """Who asked for the run, after a comma; empty for one that nobody delegated."""
    if run.purpose != DELEGATION:
        return ""
    given = ", ".join(_asked(run)["capabilities"]) or "no capabilities"
    return f", delegated by {_asked(run)['by']} with {given}"
