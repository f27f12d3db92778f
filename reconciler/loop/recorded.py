"""Planning against the record: what a hub would do if all is as it was last recorded. Reads state.db only."""

import json
from dataclasses import replace

from reconciler.core.change import Action, Change
from reconciler.core.plan import Plan
from reconciler.core.reading import Ok, Reading
from reconciler.kinds import KINDS
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.egress.observe import recorded_state
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.policy.observe import OPA_WAS_RUNNING, OpaState, PolicyState
from reconciler.kinds.route_entry import instance_entry, with_trust
from reconciler.kinds.router.observe import CONFIGURED
from reconciler.kinds.router.state import RouterState
from reconciler.kinds.task.observe import find_unended
from reconciler.kinds.task.state import TaskStates
from reconciler.loop.guard import GuardFacts, guard
from reconciler.loop.observe import Observed
from reconciler.loop.plan import make_plan
from reconciler.loop.trust import read_scores
from reconciler.ports import Clock, ContainerSummary, InstanceReport, RouterReport
from reconciler.store import records
from reconciler.store.records import InstanceRecord
from reconciler.store.store import Store


def plan_against_record(desired: Desired, store: Store, clock: Clock, *, is_descendant: bool) -> Plan:
    """The guarded plan. Raises StoreError."""
    scores = read_scores(store, desired, clock.now())
    desired = replace(desired, route=with_trust(desired.route, scores, desired.hub.orchestrator.trust.neutral))
    instances = records.instances(store)
    entries = {name: instance_entry(r) for name, r in instances.items()}
    report = RouterReport(
        pid=0,
        epoch="",
        code_version="",
        config_digest=store.get_meta(CONFIGURED) or "",
        policy_revision="",
        inbox_seq=0,
        instances={n: InstanceReport(instance=n, digest=e["digest"]) for n, e in entries.items()},
    )
    is_configured = bool(report.config_digest)
    policy = store.get_meta("active_policy") or ""
    states = {
        "agent": AgentStates(
            instances={
                name: InstanceState(
                    name=name,
                    record=record,
                    container=_recorded_container(record),
                    report=report.instances[name],
                    sealed=True,
                )
                for name, record in instances.items()
            }
        ),
        "task": TaskStates(
            runs=tuple(records.tasks(store)),
            without_result=records.runs_without_result(store),
            unended=find_unended(store),
            schedules=records.schedules(store),
        ),
        "schema": json.loads(store.get_meta("active_schemas") or "{}"),
        "policy": PolicyState(recorded=policy, in_engine=policy, opa=_recorded_opa(store)),
        "router": RouterState(report=report if is_configured else None, entries=entries),
        "egress": recorded_state(store, desired.hub),
    }
    readings: dict[str, Reading[object]] = {k.name: Ok(states[k.name]) for k in KINDS}
    runtime = store.get_meta("runtime") or ""
    now_facts = Facts(
        now=clock.now(), boottime=clock.boottime(), boot_id=clock.boot_id(), router=report, runtime=runtime
    )
    plan = make_plan(desired, Observed(readings=readings, facts=now_facts), KINDS, compared_with="state")
    plan = replace(plan, changes=tuple(_as_recorded(c) for c in plan.changes))
    protected = frozenset(r.agent for r in instances.values() if '"protect": true' in r.manifest)
    before = {"agent": len({r.agent for r in instances.values()})}
    return guard(
        plan, desired.hub, GuardFacts(is_descendant=is_descendant, confirmed="", before=before, protected=protected)
    )


def _recorded_container(record: InstanceRecord) -> ContainerSummary | None:
    """Running, unless the record says that there is none, or that it was stopped."""
    if record.phase == Phase.REGISTERED:
        return None
    state = "exited" if record.phase == Phase.QUARANTINED else "running"
    return ContainerSummary(id=record.container_id, name=record.name, state=state, labels={}, image_id=record.image_id)


def _recorded_opa(store: Store) -> OpaState:
    """Only the running hub looks for the program, and at what it was started with; here both are taken for given."""
    running = "recorded" if store.get_meta(OPA_WAS_RUNNING) else ""
    return OpaState(program="opa", running=running, wanted="recorded")


def _as_recorded(change: Change) -> Change:
    """An instance that the record lacks need not be new: its row may be gone, and its container still there."""
    if change.kind == "agent" and change.action is Action.CREATE:
        return replace(change, reason="not in the record")
    return change
