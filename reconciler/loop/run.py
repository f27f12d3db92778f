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
from typing import Any, TypeAlias

from reconciler.core.change import Action, Cause, Change
from reconciler.core.condition import Condition, Mode, derive_mode
from reconciler.core.outcome import Applied, Failed, Skipped
from reconciler.core.plan import Plan
from reconciler.core.problem import Problem
from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import RouterError, SourceError
from reconciler.kinds.kind import Desired, Kind, World
from reconciler.loop.apply import Applying, Done, apply_plan
from reconciler.loop.guard import GuardFacts, guard, without_removals
from reconciler.loop.observe import Observed, observe
from reconciler.loop.plan import make_plan
from reconciler.loop.revision import InForce, Revisions
from reconciler.ports import PolicyEngine, RouterReport
from reconciler.store import records
from reconciler.store.audit import AuditEntry, append

CONFIRMED = "confirmed_plan"
IMAGES = "resolved_images"
"""Of the revision in force: JSON `{revision, images: {reference: image id}}`."""

Fault: TypeAlias = tuple[str, str, str]
"""A condition of the hub that is true now: type, reason, message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """What one pass saw, meant and did."""

    revision: str
    plan: Plan
    done: tuple[Done, ...] = ()
    conditions: tuple[Condition, ...] = ()
    problems: tuple[Problem, ...] = ()
    mode: Mode = Mode.NORMAL

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
        """The source cannot be read now, or is not settled: what is in force may not be what it holds."""
        return any(c.type in ("SourceUnavailable", "SourceUnsettled") for c in self.conditions)

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
    ) -> None:
        self._world, self._kinds, self._compared_with, self._report = world, kinds, compared_with, report
        self._on_desired, self._faults = on_desired, faults
        self.revisions = Revisions(
            world.source, world.store, kinds, world.operator, world.clock, world.policy, fresh_engine
        )
        self._images: dict[str, dict[str, Reading[str]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._conditions = records.conditions(world.store)
        self._turn = threading.Lock()
        self._silent_passes = 0

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

    def _run_pass(self, *, apply: bool) -> PassReport:
        in_force = self.revisions.in_force()
        if in_force.desired is None:
            return self._nothing(in_force, apply=apply)
        report = self._world.router.report()
        if apply:
            self._silent_passes = 0 if isinstance(report, Ok) else self._silent_passes + 1
            self._receive(report)
        desired = self._with_images(in_force.desired)
        observed = observe(desired, self._kinds, self._world, self._mode(), report)
        plan = self._guarded(desired, observed)
        refused = plan.refused
        if refused and (good := self.revisions.last_good()) and good.revision.id != desired.revision.id:
            desired = self._with_images(good)
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
        conditions = self._settle_conditions(faults, record=apply)
        if not apply or (refused and self.revisions.last_good() is None):
            return self._reported(plan, (), conditions, in_force)
        if not refused:
            try:
                self.revisions.accept(desired)
            except SourceError as exc:
                conditions = self._settle_conditions(
                    [*faults, ("SourceUnavailable", "Unreadable", str(exc))], record=True
                )
                return self._reported(plan, (), conditions, in_force)
            self._images = {desired.revision.id: self._images[desired.revision.id]}
        self._keep_images(desired)
        self._on_desired(desired)
        done = self._apply(working, desired)
        return self._reported(replace(working, refused=refused), done, conditions, in_force)

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

    def _nothing(self, in_force: InForce, *, apply: bool) -> PassReport:
        conditions = self._settle_conditions(in_force.faults, record=apply)
        plan = Plan(revision="", compared_with="nothing", problems=in_force.problems)
        return self._reported(plan, (), conditions, in_force)

    def _reported(
        self, plan: Plan, done: tuple[Done, ...], conditions: tuple[Condition, ...], in_force: InForce
    ) -> PassReport:
        return PassReport(
            revision=plan.revision,
            plan=replace(plan, problems=in_force.problems),
            done=done,
            conditions=conditions,
            problems=in_force.problems,
            mode=derive_mode(conditions),
        )

    def _receive(self, report: Reading[RouterReport]) -> None:
        """What agents reported. A router that goes away meanwhile is asked again in the next pass."""
        for kind in self._kinds:
            if kind.receive is not None:
                with suppress(RouterError):
                    kind.receive(self._world, report)

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
        return guard(plan, desired.hub, facts)

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
            report=self._report,
        )
        return apply_plan(plan, self._kinds, job)

    def _mode(self) -> Mode:
        return derive_mode(self._conditions.values())

    def _settle_conditions(self, faults: Sequence[tuple[str, str, str]], *, record: bool) -> tuple[Condition, ...]:
        """Turn faults into conditions of the hub; transitions are recorded and audited."""
        now = self._world.clock.now()
        wanted: dict[tuple[str, str], Condition] = {
            ("hub", type_): Condition(subject="hub", type=type_, status=True, reason=reason, message=message, since=now)
            for type_, reason, message in faults
        }
        if self._world.runtime.name == "process":
            message = "the process runtime isolates neither network nor files; no confidential or restricted work"
            key = ("hub", "SandboxNotEnforced")
            wanted[key] = Condition(
                subject="hub", type=key[1], status=True, reason="ProcessRuntime", message=message, since=now
            )
        changed: list[Condition] = []
        for key in sorted(self._conditions.keys() | wanted.keys()):
            before, after = self._conditions.get(key), wanted.get(key)
            if after is None and before is not None and before.status:
                changed.append(replace(before, status=False, reason="Resolved", message="", since=now))
            elif after is not None and (before is None or not before.status):
                changed.append(after)
            elif after is not None and before is not None and before.message != after.message:
                changed.append(replace(after, since=before.since))
        now_true = {**self._conditions, **{(c.subject, c.type): c for c in changed}}
        if record:
            if changed:
                with self._world.store.transaction():
                    records.put_conditions(self._world.store, changed)
                    append(self._world.store, [self._condition_entry(c) for c in changed])
            self._conditions = now_true
        return tuple(c for c in now_true.values() if c.status)

    def _condition_entry(self, condition: Condition) -> AuditEntry:
        return self._world.entry(
            revision=self.revisions.applied,
            cause=str(Cause.START),
            kind="condition",
            name=condition.subject,
            action=condition.type,
            outcome="noted",
            reason=f"{'now true' if condition.status else 'over'}: {condition.message}"[:1000],
        )


def _unreadable(observed: Observed) -> list[tuple[str, str, str]]:
    """Conditions for what could not be read: the engine, by the agents' reading."""
    out: list[tuple[str, str, str]] = []
    for reading in observed.readings.values():
        reason: Any = getattr(reading, "reason", None)
        if reason is not None:
            out.append(("RuntimeUnavailable", "NoAnswer", str(reason)))
    return out
