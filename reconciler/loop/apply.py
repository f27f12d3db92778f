"""Step 6: carry a plan out. Intents are durable before effects, outcomes after them; failures back off on their own.

Kinds go in their order, the changes of one kind in parallel. A change that raises is a failed change; the others go on.
"""

import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import dataclass, field, replace

from reconciler.core.backoff import backoff_s
from reconciler.core.change import Action, Cause, Change
from reconciler.core.condition import Mode
from reconciler.core.digest import digest
from reconciler.core.outcome import Applied, Failed, Outcome, Skipped
from reconciler.core.plan import Plan
from reconciler.core.reading import Ok
from reconciler.crashpoint import point
from reconciler.errors import ReconcilerError
from reconciler.kinds.kind import Desired, Kind, World
from reconciler.loop.repairs import Repairs, is_repair
from reconciler.store import records
from reconciler.store.audit import AuditEntry, append
from reconciler.store.records import UnitRecord

PROVISIONING = (Action.CREATE, Action.REPLACE, Action.DISPATCH)
NEEDS_NORMAL = ("agent", "task")
TOGETHER_S = 0.02
"""How long an outcome waits for others, to be written with them."""
CAP_S = 300.0
TRANSIENT_CAP_S = 30.0
"""The longest pause after failures, and after those that end when something around us comes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One change and what came of it."""

    change: Change
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Applying:
    """What applying needs besides the plan."""

    world: World
    desired: Desired
    pool: Executor
    mode: Mode
    policy_revision: str = ""
    plan_digest: str = ""
    repairs: Repairs = field(default_factory=Repairs)
    report: Callable[[Done], None] = lambda _done: None


def apply_plan(plan: Plan, kinds: Sequence[Kind], job: Applying) -> tuple[Done, ...]:
    """Apply every pending change. Raises StoreError when intents cannot be made durable: then nothing was done."""
    units = records.units(job.world.store)
    job = replace(job, plan_digest=plan.digest)
    pending = plan.pending
    out: list[Done] = []
    for kind in kinds:
        changes = [c for c in pending if c.kind == kind.name]
        why_not = [_why_not_now(c, job, units.get(c.unit)) for c in changes]
        intended = [c for c, why in zip(changes, why_not, strict=True) if not why]
        append(job.world.store, [_entry(c, job, "intent", c.reason) for c in intended])
        out.extend(_carry_out(changes, why_not, kind, job, units))
    return tuple(out)


def _carry_out(
    changes: Sequence[Change], why_not: Sequence[str], kind: Kind, job: Applying, units: Mapping[str, UnitRecord]
) -> Sequence[Done]:
    """The changes of one kind, in the pool. What ends at about the same time is written in one transaction."""
    skipped = [Done(change=c, outcome=Skipped(reason=why)) for c, why in zip(changes, why_not, strict=True) if why]
    due = [c for c, why in zip(changes, why_not, strict=True) if not why]
    pending = {job.pool.submit(_apply_group, group, kind, job) for group in _grouped(due, kind)}
    place = {id(c): n for n, c in enumerate(changes)}
    out: list[Done] = []
    try:
        while pending or skipped:
            wait(pending, return_when=FIRST_COMPLETED)
            ended, pending = wait(pending, TOGETHER_S)
            settled = sorted((d for future in ended for d in future.result()), key=lambda d: place[id(d.change)])
            _settle(settled, job, units)
            for done in sorted((*skipped, *settled), key=lambda d: place[id(d.change)]):
                job.report(done)
                out.append(done)
            skipped = []
    finally:
        for future in pending:
            future.cancel()
    return sorted(out, key=lambda d: place[id(d.change)])


def _grouped(due: Sequence[Change], kind: Kind) -> Sequence[Sequence[Change]]:
    """What is applied at once, in the order of what comes first of it."""
    group_by_change = {id(c): group for group in kind.join(due) for c in group}
    groups = {id(group): group for group in (group_by_change.get(id(c), [c]) for c in due)}
    return list(groups.values())


def _apply_group(changes: Sequence[Change], kind: Kind, job: Applying) -> Sequence[Done]:
    """Together where there are several, and where that fails one by one, so that one's fault is not another's."""
    if len(changes) > 1 and kind.apply_joint is not None:
        try:
            for change in changes:
                point(f"{change.kind}.{change.action}.intent")
            outcomes = kind.apply_joint(changes, job.world, job.desired)
            for change in changes:
                point(f"{change.kind}.{change.action}.outcome")
            return [Done(change=c, outcome=outcome) for c, outcome in zip(changes, outcomes, strict=True)]
        except ReconcilerError as exc:
            logging.getLogger("reconciler").info("%d changes are applied one by one: %s", len(changes), _full(exc))
        except Exception:
            logging.getLogger("reconciler").exception("applying %d changes together", len(changes))
    return [_apply_one(change, kind, job) for change in changes]


def _apply_one(change: Change, kind: Kind, job: Applying) -> Done:
    """Its intent is on record."""
    point(f"{change.kind}.{change.action}.intent")
    try:
        outcome = kind.apply(change, job.world, job.desired)
    except ReconcilerError as exc:
        outcome = Failed(reason=_full(exc), retryable=exc.retryable, transient=exc.retryable)
    except Exception as exc:
        logging.getLogger("reconciler").exception("applying %s", change.unit)
        outcome = Failed(reason=f"a fault of the hub's own ({type(exc).__name__}); its log has the details")
    point(f"{change.kind}.{change.action}.outcome")
    return Done(change=change, outcome=outcome)


def _full(exc: ReconcilerError) -> str:
    """The message, and what it came from where that says more."""
    cause = exc.__cause__
    return f"{exc}: {cause}" if cause is not None and str(cause) not in str(exc) else str(exc)


def _why_not_now(change: Change, job: Applying, unit: UnitRecord | None) -> str:
    if job.mode is Mode.DEGRADED and change.kind in NEEDS_NORMAL and change.action in PROVISIONING:
        return "the hub is degraded; nothing new is provisioned or dispatched"
    if unit is None or unit.input_digest != _input_digest(change, job):
        return ""
    if unit.stalled:
        what = "repairs" if is_repair(change) else "failures"
        return f"stalled after {unit.same_failures} identical {what}: {unit.reason}"
    left = unit.not_before_boot - job.world.clock.boottime()
    if unit.boot_id == job.world.clock.boot_id() and left > 0:
        return f"failed {unit.failures} times, next attempt in {left:.1f}s: {unit.reason}"
    return ""


def _input_digest(change: Change, job: Applying) -> str:
    """What a failure is about: with another revision, plan or image on the engine, it says nothing any more."""
    images = sorted(reference for reference, found in job.desired.images.items() if isinstance(found, Ok))
    differing = [f.path for f in change.fields] if is_repair(change) else []
    return digest([job.desired.revision.id, change.spec_digest, str(change.action), images, *differing])


def _settle(ended: Sequence[Done], job: Applying, units: Mapping[str, UnitRecord]) -> None:
    """The outcomes' rows, and the units' back-off."""
    if not ended:
        return
    store = job.world.store
    with store.transaction():
        append(store, [_outcome_entry(done, job) for done in ended])
        for done in ended:
            change, unit = done.change, units.get(done.change.unit)
            if isinstance(done.outcome, Failed):
                records.put_unit(store, _failed_unit(change, done.outcome, job, unit))
            elif isinstance(done.outcome, Applied):
                if (disputed := _disputed_unit(change, job)) is not None:
                    records.put_unit(store, disputed)
                elif unit is not None:
                    records.clear_units(store, [change.unit])


def _outcome_entry(done: Done, job: Applying) -> AuditEntry:
    match done.outcome:
        case Applied(note=note):
            return _entry(done.change, job, "applied", note or done.change.reason)
        case Failed(reason=reason):
            return _entry(done.change, job, "failed", reason)
        case Skipped(reason=reason):
            return _entry(done.change, job, "skipped", reason)


def _disputed_unit(change: Change, job: Applying) -> UnitRecord | None:
    """What was put right so often that it is left from now on, as it is; None as long as it is worth a try."""
    if change.kind not in NEEDS_NORMAL or not is_repair(change):
        return None
    subject, clock = _input_digest(change, job), job.world.clock
    times = job.repairs.count(change, subject, clock.boottime())
    if times < job.desired.hub.loop.stalled_after:
        return None
    paths = ", ".join(f.path for f in change.fields)
    return UnitRecord(
        unit=change.unit,
        input_digest=subject,
        failures=times,
        same_failures=times,
        not_before_boot=0.0,
        boot_id=clock.boot_id(),
        reason=f"{paths} was put right {times} times and changed again; find who does it, or commit a change",
        stalled=True,
    )


def _failed_unit(change: Change, outcome: Failed, job: Applying, unit: UnitRecord | None) -> UnitRecord:
    input_digest = _input_digest(change, job)
    known = unit if unit is not None and unit.input_digest == input_digest else None
    failures = known.failures + 1 if known else 1
    same = known.same_failures + 1 if known and known.reason == outcome.reason else 1
    is_stalled = not outcome.retryable or (not outcome.transient and same >= job.desired.hub.loop.stalled_after)
    cap_s = TRANSIENT_CAP_S if outcome.transient else CAP_S
    wait = backoff_s(failures, cap_s=cap_s, jitter=random.random())  # noqa: S311 - jitter, not a secret
    return UnitRecord(
        unit=change.unit,
        input_digest=input_digest,
        failures=failures,
        same_failures=same,
        not_before_boot=job.world.clock.boottime() + wait,
        boot_id=job.world.clock.boot_id(),
        reason=outcome.reason,
        stalled=is_stalled,
    )


def _entry(change: Change, job: Applying, outcome: str, reason: str) -> AuditEntry:
    return job.world.entry(
        revision=job.desired.revision.id,
        actor=job.desired.asked_by(change.kind, change.name) if change.cause is Cause.COMMIT else "hub",
        cause=str(change.cause),
        kind=change.kind,
        name=change.instance or change.name,
        action=str(change.action),
        before=_side(change, "before"),
        after=_side(change, "after"),
        outcome=outcome,
        reason=reason[:1000],
        plan_digest=job.plan_digest,
        policy_revision=job.policy_revision,
    )


def _side(change: Change, side: str) -> str:
    values = {f.path: getattr(f, side) for f in change.fields if getattr(f, side) is not None}
    return json.dumps(values, sort_keys=True, default=str)[:4000] if values else ""
