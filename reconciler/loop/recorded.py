"""Planning against the record: what a hub would do if all is as it was last recorded. Reads state.db only."""

import json

from reconciler.core.plan import Plan
from reconciler.core.reading import Ok, Reading
from reconciler.kinds import KINDS
from reconciler.kinds.agent.state import AgentStates, InstanceState
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.policy.observe import PolicyState
from reconciler.kinds.route_entry import instance_entry
from reconciler.kinds.router.observe import CONFIGURED
from reconciler.kinds.router.state import RouterState
from reconciler.kinds.task.state import TaskStates
from reconciler.loop.guard import GuardFacts, guard
from reconciler.loop.observe import Observed
from reconciler.loop.plan import make_plan
from reconciler.ports import Clock, ContainerSummary, InstanceReport, RouterReport
from reconciler.store import records
from reconciler.store.store import Store


def plan_against_record(desired: Desired, store: Store, clock: Clock, *, is_descendant: bool) -> Plan:
    """The guarded plan. Raises StoreError."""
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
                    container=ContainerSummary(
                        id=record.container_id, name=name, state="running", labels={}, image_id=record.image_id
                    ),
                    report=report.instances[name],
                    sealed=True,
                )
                for name, record in instances.items()
            }
        ),
        "task": TaskStates(runs=tuple(records.tasks(store)), without_result=records.runs_without_result(store)),
        "schema": json.loads(store.get_meta("active_schemas") or "{}"),
        "policy": PolicyState(recorded=policy, in_engine=policy),
        "router": RouterState(report=report if is_configured else None, entries=entries),
    }
    readings: dict[str, Reading[object]] = {k.name: Ok(states[k.name]) for k in KINDS}
    now_facts = Facts(now=clock.now(), boottime=clock.boottime(), boot_id=clock.boot_id(), router=report)
    plan = make_plan(desired, Observed(readings=readings, facts=now_facts), KINDS, compared_with="state")
    protected = frozenset(r.agent for r in instances.values() if '"protect": true' in r.manifest)
    before = {"agent": len({r.agent for r in instances.values()})}
    return guard(
        plan, desired.hub, GuardFacts(is_descendant=is_descendant, confirmed="", before=before, protected=protected)
    )
