"""The pass, top to bottom:

git -> desired -> observed -> plan -> guard -> apply -> audit

`Loop.run_pass` reads the world again each time, whatever woke it. It runs in one thread; effects run in a pool.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from reconciler.core.caller import Caller
from reconciler.core.change import Action, Change
from reconciler.core.condition import Condition, Finding, Mode, derive_mode
from reconciler.core.outcome import Applied, Failed, Skipped
from reconciler.core.plan import Plan
from reconciler.core.problem import Problem
from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.core.rollback import Rollback
from reconciler.errors import RouterError, SourceError
from reconciler.kinds.kind import Desired, Kind, World
from reconciler.kinds.route_entry import with_trust
from reconciler.loop.alerts import Alerts
from reconciler.loop.apply import Applying, Done, apply_plan
from reconciler.loop.conditions import Conditions, Fault, Findings
from reconciler.loop.findings import Alarms, Throughput, find_concerns, find_distrusted
from reconciler.loop.guard import GuardFacts, guard, without_removals
from reconciler.loop.named import name_settings
from reconciler.loop.observe import Observed, observe
from reconciler.loop.plan import make_plan
from reconciler.loop.recorded import plan_by, read_record
from reconciler.loop.repairs import Repairs
from reconciler.loop.revision import InForce, Revisions, Unfit
from reconciler.loop.rollback import (
    clear_rollback,
    end_superseded,
    find_rolled_back,
    mark_rolled_back,
    note_rollback,
)
from reconciler.loop.suspend import Suspension, end_expired, find_suspended, hold_suspended, read_suspensions
from reconciler.loop.trust import TrustStep, read_scores
from reconciler.ports import PolicyEngine, RouterReport
from reconciler.settings import Alerts as AlertSettings
from reconciler.store import queue, records

CONFIRMED = "confirmed_plan"
IMAGES = "resolved_images"
"""Of the revision in force: JSON `{revision, images: {reference: image id}}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """What one pass saw, meant and did. `candidate` is the newest revision that was looked at, good or not.

    `rollbacks` are those that hold, so that not all is as the newest revision says.
    """

    revision: str
    plan: Plan
    candidate: str = ""
    done: tuple[Done, ...] = ()
    conditions: tuple[Condition, ...] = ()
    problems: tuple[Problem, ...] = ()
    mode: Mode = Mode.NORMAL
    rollbacks: tuple[Rollback, ...] = ()

    @property
    def failed(self) -> tuple[Done, ...]:
        return tuple(d for d in self.done if isinstance(d.outcome, Failed))

    @property
    def applied(self) -> tuple[Done, ...]:
        return tuple(d for d in self.done if isinstance(d.outcome, Applied))

    @property
    def held(self) -> tuple[Change, ...]:
        return tuple(c for c in self.plan.changes if c.action is Action.HOLD)

    @property
    def is_converged(self) -> bool:
        """Everything is as git says, and no task is on its way."""
        return not (self.plan.pending or self.held or self.plan.refused or self.problems) and bool(self.revision)

    @property
    def is_behind(self) -> bool:
        """The source cannot be read now, is not settled, or not believed: what is in force may not be what it holds."""
        return any(c.type in ("SourceUnavailable", "SourceUnsettled", "SourceUnverified") for c in self.conditions)

    @property
    def is_settled(self) -> bool:
        """As converged, but tasks may still be on their way."""
        others = [c for c in (*self.plan.pending, *self.held) if c.kind != "task"]
        moving = any(c.kind == "task" and c.action is Action.CREATE for c in self.plan.pending)
        return not (others or moving or self.plan.refused or self.problems) and bool(self.revision)

    @property
    def is_stuck(self) -> bool:
        """Nothing was done, and nothing will change by waiting."""
        if self.applied or self.is_converged:
            return False
        waits = any(c.wait_s is not None or c.reason.startswith(("running on", "assigned on")) for c in self.held)
        retries = any(
            isinstance(d.outcome, Failed | Skipped) and not d.outcome.reason.startswith("stalled") for d in self.done
        )
        return not (waits or retries)


class Loop:
    """Runs passes over one world."""

    def __init__(
        self,
        world: World,
        kinds: Sequence[Kind],
        *,
        compared_with: str = "engine",
        report: Callable[[Done], None] = lambda _done: None,
        fresh_engine: Callable[[], PolicyEngine] | None = None,
        on_desired: Callable[[Desired], None] = lambda _desired: None,
        faults: Callable[[], Sequence[Fault]] = lambda: (),
        alerts: Alerts | None = None,
    ) -> None:
        self._world, self._kinds, self._compared_with, self._report = world, kinds, compared_with, report
        self._on_desired, self._faults = on_desired, faults
        self.revisions = Revisions(
            world.source, world.store, kinds, world.operator, world.clock, world.policy, fresh_engine
        )
        self._images: dict[str, dict[str, Reading[str]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._turn = threading.Lock()
        self._silent_passes = 0
        self._repairs = Repairs()
        self._trust = TrustStep(world)
        self._throughput = Throughput(world.clock.boottime)
        self._alarms = Alarms(world.store, world.clock.boottime)
        self._alerts = alerts or Alerts(world.store, world.fleet, world.clock)
        self._suspensions: tuple[Suspension, ...] = ()
        self._conditions = Conditions(world, self._alerts, self._alarms)
        self._source_read_at = world.clock.boottime()

    def close(self) -> None:
        """End the effects pool; effects under way are finished first."""
        self.revisions.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def run_pass(self, *, apply: bool = True) -> PassReport:
        """One pass. With `apply` False nothing is changed. Raises StoreError when state.db cannot be used.

        Passes asked for by several threads run one after the other.
        """
        with self._turn:
            return self._run_pass(apply=apply)

    def roll_back(self, subject: str, name: str, caller: Caller) -> Rollback | Unfit:
        """Have the next pass take the fleet, or one resource, back to the revision `name`. Raises StoreError."""
        with self._turn:
            found = self.revisions.judge(subject, name)
            if isinstance(found, Unfit):
                return found
            made = Rollback(
                subject=subject,
                to=found.to,
                since=found.since,
                skipped=found.skipped,
                reason=caller.reason,
                actor=str(caller),
                at=self._world.clock.now().isoformat(),
            )
            note_rollback(self._world, made, self.revisions.applied)
            self.revisions.forget()
            return made

    def clear_rollback(self, subject: str, caller: Caller) -> Rollback | None:
        """Have the next pass take the subject up as the source has it; None where it was not rolled back."""
        with self._turn:
            found = clear_rollback(self._world, subject, caller, self.revisions.applied)
            self.revisions.forget()
            return found

    def _run_pass(self, *, apply: bool) -> PassReport:
        in_force = self.revisions.in_force()
        self._conditions.look_at(self.revisions.last_good(), in_force.candidate)
        self._suspensions = (
            end_expired(self._world, self.revisions.applied) if apply else read_suspensions(self._world.store)
        )
        if not any(type_ == "SourceUnavailable" for type_, _, _ in in_force.faults):
            self._source_read_at = self._world.clock.boottime()
        if in_force.desired is None:
            return self._nothing(in_force, apply=apply)
        report = self._world.router.report()
        if apply:
            self._silent_passes = 0 if isinstance(report, Ok) else self._silent_passes + 1
            self._receive(report)
            self._trust.look(in_force.desired, report)
        desired = self._prepared(in_force.desired)
        observed = observe(desired, self._kinds, self._world, self._mode(), report)
        plan = self._guarded(desired, observed)
        refused = plan.refused
        if refused and (good := self.revisions.last_good()) and good.revision.id != desired.revision.id:
            desired = self._prepared(good)
            observed = observe(desired, self._kinds, self._world, self._mode(), report)
            working = self._guarded(desired, observed)
        else:
            working = plan
        if working.refused:
            working = without_removals(working, working.refused[0].reason)
        faults = [*in_force.faults, *_unreadable(observed), *self._router_faults(report), *self._faults()]
        if refused:
            faults.append(
                (
                    "PlanRefused",
                    refused[0].guard,
                    f"{refused[0].reason}; if meant: reconciler apply --confirm {refused[0].confirm}",
                )
            )
        self._conditions.look_at(desired, in_force.candidate)
        findings = self._findings(desired, observed, working)
        conditions = self._conditions.settle(faults, findings, self._settings, record=apply)
        if not apply or (refused and self.revisions.last_good() is None):
            return self._reported(plan, (), conditions, in_force, desired.rollbacks)
        if not refused:
            try:
                self.revisions.accept(desired)
            except SourceError as exc:
                faults.append(("SourceUnavailable", "Unreadable", str(exc)))
                conditions = self._conditions.settle(faults, findings, self._settings, record=True)
                return self._reported(plan, (), conditions, in_force)
            if in_force.is_newest:
                end_superseded(self._world, desired)
            self._images = {desired.revision.id: self._images[desired.revision.id]}
        self._keep_images(desired)
        self._on_desired(desired)
        done = self._apply(working, desired)
        self._throughput.note(done)
        return self._reported(replace(working, refused=refused), done, conditions, in_force, desired.rollbacks)

    def _router_faults(self, report: Reading[RouterReport]) -> Sequence[Fault]:
        """A router that was silent twice in a row, so that starting it did not help; what one that answers lacks."""
        if isinstance(report, Ok):
            faults: list[Fault] = []
            if report.value.log_unavailable:
                message = "the router's message log cannot be written, and its reserve is used up; messages get 503"
                faults.append(("LogUnwritable", "NoSpace", message))
            if report.value.policy_fault:
                faults.append(("PolicyFallback", "EngineAway", report.value.policy_fault))
            return faults
        if self._silent_passes < 2:
            return []
        reason = report.reason if isinstance(report, Unavailable) else "it is not running, and starting it did not help"
        return [("RouterDown", "NoAnswer", f"the router does not answer: {reason}")]

    def _findings(self, desired: Desired, observed: Observed, plan: Plan) -> Findings:
        """What else a person should know of, by the kinds of subjects that were looked at. Raises StoreError."""
        store, readings = self._world.store, observed.readings
        waiting = sum(observed.facts.waiting.values()) + queue.count_in(store, "pending")
        found = [
            *find_concerns(plan),
            *find_distrusted(observed.facts),
            *find_suspended(self._suspensions),
            *find_rolled_back(desired.rollbacks),
            *self._throughput.find(waiting, desired.hub.alerts.throughput_window),
            *self._alarms.find(),
            *self._alerts.faults(),
        ]
        out: dict[str, list[Finding]] = {"sink": []}
        for kind in self._kinds:
            reading = readings[kind.name]
            if isinstance(reading, Ok):
                out.setdefault(kind.name, [])
                of_kind = kind.find(reading.value) if kind.find is not None else {}
                out |= {subject: list(findings) for subject, findings in of_kind.items()}
        for finding in found:
            out.setdefault(finding.subject.partition("/")[0], []).append(finding)
        return out

    def _nothing(self, in_force: InForce, *, apply: bool) -> PassReport:
        conditions = self._conditions.settle(in_force.faults, {}, self._settings, record=apply)
        plan = Plan(revision="", compared_with="nothing", problems=in_force.problems)
        return self._reported(plan, (), conditions, in_force)

    def _reported(
        self,
        plan: Plan,
        done: tuple[Done, ...],
        conditions: tuple[Condition, ...],
        in_force: InForce,
        rollbacks: tuple[Rollback, ...] = (),
    ) -> PassReport:
        return PassReport(
            revision=plan.revision,
            plan=replace(plan, problems=in_force.problems),
            candidate=in_force.candidate,
            done=done,
            conditions=conditions,
            problems=in_force.problems,
            mode=derive_mode(conditions),
            rollbacks=rollbacks,
        )

    def _receive(self, report: Reading[RouterReport]) -> None:
        """What agents reported. A router that goes away meanwhile is asked again in the next pass."""
        for kind in self._kinds:
            if kind.receive is not None:
                with suppress(RouterError):
                    kind.receive(self._world, report)

    def _prepared(self, desired: Desired) -> Desired:
        """With what is not in git, but belongs to what is to be: images by id, and the trust that agents have."""
        scores = read_scores(self._world.store, desired, self._world.clock.now())
        route = with_trust(desired.route, scores, desired.hub.orchestrator.trust.neutral)
        return replace(self._with_images(desired), route=route)

    def _with_images(self, desired: Desired) -> Desired:
        """What each image reference means: asked once per revision, and again while it is not there."""
        revision = desired.revision.id
        if revision not in self._images:
            self._images[revision] = self._recorded_images(revision)
        known = self._images[revision]
        wanted = {i for k in self._kinds if k.images is not None for i in k.images(desired)}
        for reference in sorted(wanted):
            if not isinstance(known.get(reference), Ok):
                known[reference] = self._world.runtime.resolve_image(reference)
        return replace(desired, images=dict(known))

    def _recorded_images(self, revision: str) -> dict[str, Reading[str]]:
        """What references meant to an earlier hub, as far as something was made of it and the images are still there.

        Only then would another meaning replace what runs without a commit.
        """
        recorded = json.loads(self._world.store.get_meta(IMAGES) or "{}")
        if recorded.get("revision") != revision or not records.instances(self._world.store):
            return {}
        images: Mapping[str, str] = recorded["images"]
        is_gone = {i: isinstance(self._world.runtime.resolve_image(i), Absent) for i in sorted(set(images.values()))}
        return {reference: Ok(image_id) for reference, image_id in images.items() if not is_gone[image_id]}

    def _keep_images(self, desired: Desired) -> None:
        """Record what references mean, before anything is made of it. Raises StoreError."""
        images = {reference: found.value for reference, found in desired.images.items() if isinstance(found, Ok)}
        meant = json.dumps({"revision": desired.revision.id, "images": images}, sort_keys=True)
        if self._world.store.get_meta(IMAGES) != meant:
            self._world.store.set_meta(IMAGES, meant)

    def _guarded(self, desired: Desired, observed: Observed) -> Plan:
        plan = make_plan(desired, observed, self._kinds, compared_with=self._compared_with)
        before = self.revisions.last_good()
        plan = name_settings(plan, before.hub if before is not None else None, desired.hub)
        recorded = records.instances(self._world.store)
        try:
            is_descendant = self.revisions.is_descendant(desired)
        except SourceError:
            is_descendant = False
        agents = {r.agent for r in recorded.values()}
        orphans = {c.name for c in plan.changes if c.action is Action.RECYCLE}
        facts = GuardFacts(
            is_descendant=is_descendant,
            confirmed=self._world.store.get_meta(CONFIRMED) or "",
            before={"agent": len(agents | orphans)},
            protected=frozenset(r.agent for r in recorded.values() if '"protect": true' in r.manifest),
            is_fresh_store=not self.revisions.applied,
            disputed=desired.disputed if desired.revision.id != self.revisions.applied else (),
        )
        guarded = guard(plan, desired.hub, facts)
        if desired.revision.id != self.revisions.applied and _unreadable(observed):
            # Nothing is planned for what cannot be seen, so that there would be no removal to refuse.
            by_record = plan_by(read_record(self._world.store), desired, observed.facts, compared_with="state")
            guarded = replace(guarded, refused=guard(by_record, desired.hub, facts).refused)
        marked = mark_rolled_back(guarded, desired.rollbacks)
        return hold_suspended(marked, self._suspensions, self._world.clock.now())

    def _apply(self, plan: Plan, desired: Desired) -> tuple[Done, ...]:
        if not plan.pending:
            return ()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=desired.hub.loop.concurrency, thread_name_prefix="effect")
        job = Applying(
            world=self._world,
            desired=desired,
            pool=self._pool,
            mode=self._mode(),
            policy_revision=self._world.policy.revision,
            repairs=self._repairs,
            report=self._report,
        )
        return apply_plan(plan, self._kinds, job)

    def _mode(self) -> Mode:
        return self._conditions.recorded_mode

    def note_store_fault(self, reason: str) -> None:
        """See `Conditions`."""
        self._conditions.note_store_fault(reason, self._settings)

    def note_own_fault(self, reason: str, message: str) -> None:
        """See `Conditions`."""
        self._conditions.note_own_fault(reason, message, self._settings)

    def end_own_fault(self) -> None:
        """See `Conditions`. Raises StoreError."""
        self._conditions.end_own_fault(self._settings)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those that are true now."""
        return self._conditions.true

    @property
    def source_age_s(self) -> float:
        """Seconds since the source was read; since the start where it never was."""
        return self._world.clock.boottime() - self._source_read_at

    @property
    def mode(self) -> Mode:
        """What follows from the conditions."""
        return derive_mode(self.conditions)

    @property
    def _settings(self) -> AlertSettings:
        desired = self.revisions.last_good()
        return desired.hub.alerts if desired is not None else AlertSettings()


def _unreadable(observed: Observed) -> list[tuple[str, str, str]]:
    """Conditions for what could not be read: the engine, by the agents' reading."""
    out: list[tuple[str, str, str]] = []
    for reading in observed.readings.values():
        reason: Any = getattr(reading, "reason", None)
        if reason is not None:
            out.append(("RuntimeUnavailable", "NoAnswer", str(reason)))
    return out
