"""Planning by what is known of a fleet without looking at it: its record, an export of that, or an assumption."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reconciler.core.change import Action, Change
from reconciler.core.plan import Plan
from reconciler.core.reading import Ok, Reading
from reconciler.kinds import KINDS
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.egress.observe import recorded_config, recorded_state
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.policy.observe import OPA_WAS_RUNNING
from reconciler.kinds.policy.state import OpaState, PolicyState
from reconciler.kinds.route_entry import instance_entry, with_trust
from reconciler.kinds.router.observe import CONFIGURED
from reconciler.kinds.router.state import RouterState
from reconciler.kinds.task.observe import find_unended
from reconciler.kinds.task.state import TaskState, states_of_all
from reconciler.loop.guard import GuardFacts, guard
from reconciler.loop.kept import read_accepted_hub
from reconciler.loop.named import name_settings
from reconciler.loop.observe import Observed
from reconciler.loop.plan import make_plan
from reconciler.loop.rollback import mark_rolled_back
from reconciler.loop.suspend import hold_suspended, read_suspensions
from reconciler.loop.trust import scores_of
from reconciler.ports import Clock, ContainerSummary, InstanceReport, RouterReport
from reconciler.store import attempts, records
from reconciler.store.records import InstanceRecord, ScheduleRecord, TaskRecord, TrustRecord
from reconciler.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A fleet as its record has it. `schemas` are digests by message type, `policy` is the digest of the bundle.

    `router_config` and `egress_config` are digests of what these were configured with; empty and None where they were
    not.
    """

    fleet: str = ""
    revision: str = ""
    runtime: str = ""
    instances: tuple[InstanceRecord, ...] = ()
    runs: tuple[TaskRecord, ...] = ()
    without_result: frozenset[str] = frozenset()
    unended: Mapping[str, TaskState] = field(default_factory=dict)
    schedules: tuple[ScheduleRecord, ...] = ()
    schemas: Mapping[str, str] = field(default_factory=dict)
    policy: str = ""
    is_opa_running: bool = False
    router_config: str = ""
    egress_config: str | None = None
    trust: tuple[TrustRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assent:
    """What the guard is told: whether the revision may follow, what a person confirmed, and what only it allows."""

    is_descendant: bool = True
    confirmed: str = ""
    disputed: tuple[str, ...] = ()


def read_record(store: Store) -> Recorded:
    """All of it, as it is now. Raises StoreError."""
    return Recorded(
        fleet=store.get_meta("fleet") or "",
        revision=store.get_meta("applied_revision") or "",
        runtime=store.get_meta("runtime") or "",
        instances=tuple(records.instances(store).values()),
        runs=tuple(records.tasks(store)),
        without_result=records.runs_without_result(store),
        unended=find_unended(store),
        schedules=tuple(records.schedules(store).values()),
        schemas=json.loads(store.get_meta("active_schemas") or "{}"),
        policy=store.get_meta("active_policy") or "",
        is_opa_running=bool(store.get_meta(OPA_WAS_RUNNING)),
        router_config=store.get_meta(CONFIGURED) or "",
        egress_config=recorded_config(store),
        trust=tuple(records.trust(store).values()),
    )


def plan_against_record(
    desired: Desired, store: Store, clock: Clock, *, is_descendant: bool, confirmed: str = ""
) -> Plan:
    """The guarded plan, without what is suspended; it says what is rolled back. Raises StoreError."""
    recorded = read_record(store)
    delegated = attempts.delegated(store)
    facts = Facts(now=clock.now(), boottime=clock.boottime(), boot_id=clock.boot_id(), delegated=delegated)
    plan = plan_by(recorded, desired, facts, compared_with="state")
    plan = name_settings(plan, read_accepted_hub(store), desired.hub)
    plan = replace(plan, changes=tuple(not_known(c, "not in the record") for c in plan.changes))
    plan = guard_by(plan, recorded, desired, Assent(is_descendant=is_descendant, confirmed=confirmed))
    return hold_suspended(mark_rolled_back(plan, desired.rollbacks), read_suspensions(store), clock.now())


def plan_by(recorded: Recorded, desired: Desired, facts: Facts, *, compared_with: str) -> Plan:
    """The plan, as if all were as recorded. Pure; `facts` says when."""
    scores = scores_of({t.agent: t for t in recorded.trust}, desired, facts.now)
    desired = replace(desired, route=with_trust(desired.route, scores, desired.hub.orchestrator.trust.neutral))
    instances = {r.name: r for r in recorded.instances}
    entries = {name: instance_entry(r) for name, r in instances.items()}
    report = RouterReport(
        pid=0,
        epoch="",
        code_version="",
        config_digest=recorded.router_config,
        policy_revision="",
        inbox_seq=0,
        instances={n: InstanceReport(instance=n, digest=e["digest"]) for n, e in entries.items()},
    )
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
        "task": replace(
            states_of_all(recorded.runs),
            without_result=recorded.without_result,
            unended=recorded.unended,
            schedules={s.name: s for s in recorded.schedules},
        ),
        "schema": recorded.schemas,
        "policy": PolicyState(
            recorded=recorded.policy, in_engine=recorded.policy, opa=_recorded_opa(is_running=recorded.is_opa_running)
        ),
        "router": RouterState(report=report if recorded.router_config else None, entries=entries),
        "egress": recorded_state(recorded.egress_config),
    }
    readings: dict[str, Reading[object]] = {k.name: Ok(states[k.name]) for k in KINDS}
    facts = replace(facts, router=report, runtime=recorded.runtime)
    return make_plan(desired, Observed(readings=readings, facts=facts), KINDS, compared_with=compared_with)


def guard_by(plan: Plan, recorded: Recorded, desired: Desired, assent: Assent) -> Plan:
    """The plan with what the guard says of it. Pure."""
    facts = GuardFacts(
        is_descendant=assent.is_descendant,
        confirmed=assent.confirmed,
        before={"agent": len({r.agent for r in recorded.instances})},
        protected=frozenset(r.agent for r in recorded.instances if '"protect": true' in r.manifest),
        disputed=assent.disputed,
    )
    return guard(plan, desired.hub, facts)


def not_known(change: Change, reason: str) -> Change:
    """An instance that the record lacks need not be new: its row may be gone, and its container still there."""
    if change.kind == "agent" and change.action is Action.CREATE:
        return replace(change, reason=reason)
    return change


def _recorded_container(record: InstanceRecord) -> ContainerSummary | None:
    """Running, unless the record says that there is none, or that it was stopped."""
    if record.phase == Phase.REGISTERED:
        return None
    state = "exited" if record.phase == Phase.QUARANTINED else "running"
    return ContainerSummary(id=record.container_id, name=record.name, state=state, labels={}, image_id=record.image_id)


def _recorded_opa(*, is_running: bool) -> OpaState:
    """Only the running hub looks for the program, and at what it was started with; here both are taken for given."""
    return OpaState(program="opa", running="recorded" if is_running else "", wanted="recorded")
