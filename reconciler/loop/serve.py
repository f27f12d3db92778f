"""The hub's main thread: passes one after the other until told to stop, woken by what `loop/wake.py` lists.

Three ways to end: `stop` leaves router and agents running for the next start to adopt; `take_down` drains and removes
everything; `run_once` returns when the fleet has converged, or can get no further.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.change import Action, Cause
from reconciler.core.condition import Mode
from reconciler.core.outcome import Applied, Failed, Skipped
from reconciler.core.plan import Plan
from reconciler.core.reading import Ok, Unavailable
from reconciler.errors import ReconcilerError, RouterError, StoreError
from reconciler.heap import share_one_heap
from reconciler.kinds.kind import Desired, Kind, World
from reconciler.kinds.manifest import Loaded
from reconciler.loop.apply import Applying, Done, apply_plan
from reconciler.loop.inspections import Inspections, Sample, Sweep
from reconciler.loop.observe import observe
from reconciler.loop.plan import make_plan
from reconciler.loop.run import Loop, PassReport
from reconciler.loop.wake import Wake, follow_engine, follow_router, watch_files
from reconciler.ports import Revision
from reconciler.settings import HubSpec
from reconciler.store import records

BREAKER_S = 1.0
DEFAULT_RESYNC_S = 30.0
FASTEST_S = 0.02
STUCK_S = 15.0
"""How long nothing must have moved before `run_once` gives up: agents call again within seconds of any fault."""
TELL_S = 20.0
HANGS_AFTER_S = 300.0
_PACKAGE = Path(__file__).parent.parent


class Hub:
    """Runs a loop, its wakers and what else belongs to one running hub."""

    def __init__(
        self,
        loop: Loop,
        world: World,
        kinds: Sequence[Kind],
        inspections: Inspections,
        *,
        before_pass: Callable[[], None] = lambda: None,
        after_pass: Callable[[], None] = lambda: None,
        pause: Callable[[], float | None] = lambda: None,
        on_pass: Callable[[PassReport], None] = lambda _report: None,
        on_fault: Callable[[str], None] = lambda _text: None,
        watched: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._loop, self._world, self._kinds, self._inspections = loop, world, kinds, inspections
        self._after_pass, self._pause = after_pass, pause
        self._before_pass, self._on_pass, self._on_fault = before_pass, on_pass, on_fault
        self._watched = watched or world.source.watch_paths
        self.wake = Wake()
        self._stop = threading.Event()
        self._down = threading.Event()
        self.last: PassReport | None = None
        self._passed_at = time.monotonic()
        self._hangs_after_s = HANGS_AFTER_S

    def stop(self) -> None:
        """End after the pass under way; everything that runs goes on without us. From any thread, no signal handler."""
        self._stop.set()
        self.wake.ring()

    def take_down(self) -> None:
        """End by draining and removing everything."""
        self._down.set()
        self.stop()

    @property
    def is_going_down(self) -> bool:
        return self._down.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether passes end: the last one did not long ago, for all that a busy one may take."""
        return self.pass_age_s < self._hangs_after_s

    @property
    def pass_age_s(self) -> float:
        """Seconds since a pass ended."""
        return time.monotonic() - self._passed_at

    def samples(self) -> Mapping[str, Sample]:
        """What each container was last seen to use, by instance."""
        return self._inspections.samples()

    def serve(self) -> None:
        """Pass after pass until `stop` or `take_down`."""
        self._start_wakers()
        while not self._stop.is_set():
            report = self._pass()
            self.wake.wait(self._pause_s(report))

    def run_once(self, timeout_s: float, *, wait_for_tasks: bool = True) -> bool:
        """Pass after pass until converged (True), stuck, stopped or out of time (False).

        Without `wait_for_tasks` it is enough that every task that can be is on its way.
        """
        self._start_wakers()
        deadline = time.monotonic() + timeout_s
        stuck_since: float | None = None
        while not self._stop.is_set() and time.monotonic() < deadline:
            report = self._pass()
            if report is not None and (report.is_converged or (not wait_for_tasks and report.is_settled)):
                return True
            if report is None or not report.is_stuck:
                stuck_since = None
            elif stuck_since is None:
                stuck_since = time.monotonic()
            elif time.monotonic() - stuck_since > STUCK_S:
                return False
            pause = min(self._pause_s(report), STUCK_S / 4 if stuck_since is not None else STUCK_S)
            self.wake.wait(min(pause, max(0.0, deadline - time.monotonic())))
        return False

    def _start_wakers(self) -> None:
        share_one_heap()
        world = self._world
        watch_files(self._watched, self.wake, self._stop)
        follow_engine(world.runtime, self._inspections, self.wake, self._stop)
        follow_router(world.router, self.wake, self._stop)
        Sweep(self._inspections, self._resync_s, self.wake.ring, self._stop).start()

    def _pass(self) -> PassReport | None:
        try:
            self._before_pass()
            self.last = self._loop.run_pass()
            self._after_pass()
            self._loop.end_own_fault()
        except StoreError as exc:
            self._loop.note_store_fault(str(exc))
            self._on_fault(f"StoreUnwritable: {exc}")
            return None
        except Exception as exc:
            logging.getLogger("reconciler").exception("a pass failed")
            reason, message = type(exc).__name__, f"a fault of the hub's own ended a pass: {_place_fault(exc)}"
            self._loop.note_own_fault(reason, message)
            self._on_fault(f"PassFailed: {message}")
            return None
        finally:
            self._passed_at, self._hangs_after_s = time.monotonic(), max(HANGS_AFTER_S, 3 * self._resync_s())
        self._on_pass(self.last)
        return self.last

    def _pause_s(self, report: PassReport | None) -> float:
        """How long to sleep: not at all after progress, until the next due time, at most one resync."""
        if report is None:
            return BREAKER_S
        if report.applied:
            return 0.0
        waits = [c.wait_s for c in report.plan.changes if c.wait_s is not None]
        if (again := self._pause()) is not None:
            waits.append(again)
        if any(isinstance(d.outcome, Failed | Skipped) for d in report.done):
            waits.append(BREAKER_S)
        return max(FASTEST_S, min([self._resync_s(), *waits]))

    def _resync_s(self) -> float:
        desired = self._loop.revisions.last_good()
        return desired.hub.loop.resync if desired else DEFAULT_RESYNC_S


def _place_fault(exc: Exception) -> str:
    """What, and where in our code. What it says may hold anything, and stands in the log alone."""
    frames = traceback.extract_tb(exc.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)] or frames
    where = "".join(f" in {Path(f.filename).name}:{f.lineno} ({f.name})" for f in ours[-1:])
    return f"{type(exc).__name__}{where}; see the hub's log"


def take_down(
    world: World,
    kinds: Sequence[Kind],
    desired: Desired,
    *,
    drain: bool,
    patience_s: float,
    timeout_s: float = 600.0,
    report: Callable[[Done], None] = lambda _done: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> str:
    """Drain and remove every instance, then end the router and what else the kinds run.

    Returns why something may be left; empty when nothing is, and only when the engine says so. A router that is gone is
    started for as long as it is needed. What is waited for is told at once, and then rarely. Gives up after
    `timeout_s`, and where for `patience_s` nothing could be removed and no task was waited for; the record stays, and a
    later call goes on from there. Raises StoreError.
    """
    empty = replace(desired, loaded={**desired.loaded, "agent": Loaded(by_name={})})
    began = time.monotonic()
    moved_at, tell_at = began, began
    with ThreadPoolExecutor(max_workers=desired.hub.loop.concurrency) as pool:
        job = Applying(world=world, desired=empty, pool=pool, mode=Mode.NORMAL, report=report)
        while not (step := _remove_more(kinds, job, drain=drain)).is_last:
            now = time.monotonic()
            if not step.is_stuck:
                moved_at = now
            if not step.obstacle:
                continue
            left = f"{_on_record(world)}; {step.obstacle}"
            if now - began > timeout_s or now - moved_at > patience_s:
                return left
            if now >= tell_at:
                tell(f"waiting: {left}")
                tell_at = now + TELL_S
            time.sleep(FASTEST_S * 5)
    world.router.stop()
    if left := _end_the_rest(kinds, world):
        return left
    over = [replace(c, status=False, reason="Down", message="") for c in records.conditions(world.store).values()]
    records.put_conditions(world.store, over)
    return ""


def _end_the_rest(kinds: Sequence[Kind], world: World) -> str:
    """Why something of it may be left; empty when nothing is. Raises StoreError."""
    left: list[str] = []
    for kind in kinds:
        try:
            if kind.take_down is not None:
                kind.take_down(world)
        except StoreError:
            raise
        except ReconcilerError as exc:
            left.append(str(exc))
    return "; ".join(left)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What one round of removing came to: nothing is left, or what is in the way, if anything is.

    It is stuck when nothing was done, and no task is waited for.
    """

    is_last: bool = False
    is_stuck: bool = False
    obstacle: str = ""


def _remove_more(kinds: Sequence[Kind], job: Applying, *, drain: bool) -> _Step:
    world, desired = job.world, job.desired
    agents = [k for k in kinds if k.name == "agent" or (k.name == "router" and desired.route)]
    router = world.router.report()
    with suppress(RouterError):
        if not isinstance(router, Ok) and not desired.route:
            world.router.start()
        for kind in kinds:
            if kind.receive is not None:
                kind.receive(world, router)
    observed = observe(desired, agents, world, Mode.NORMAL, router)
    if not drain:
        observed = replace(observed, facts=replace(observed.facts, busy={}))
    found = observed.readings["agent"]
    if not isinstance(found, Ok):
        reason = found.reason if isinstance(found, Unavailable) else "it gave no list"
        obstacle = f"the {world.runtime.name} runtime cannot be read: {reason}"
        return _Step(is_last=not records.instances(world.store), is_stuck=True, obstacle=obstacle)
    plan = make_plan(desired, observed, agents, compared_with="engine")
    removal = _by_operator(plan)
    if not any(c.kind == "agent" for c in removal.changes):
        return _Step(is_last=True)
    done = apply_plan(removal, agents, job)
    held = [c.reason for c in plan.changes if c.kind == "agent" and c.action is Action.HOLD and c.wait_s is not None]
    failed = [d.outcome.reason for d in done if isinstance(d.outcome, Failed | Skipped)]
    has_moved = any(isinstance(d.outcome, Applied) for d in done)
    obstacle = next(iter([*failed, *held]), "") if failed or not done else ""
    return _Step(is_stuck=not has_moved and not held, obstacle=obstacle)


def _on_record(world: World) -> str:
    count = len(records.instances(world.store))
    return f"{count} instance{'s' if count != 1 else ''} on record"


def nothing_desired() -> Desired:
    """A desired state with nothing in it, for taking down what no revision describes any more."""
    return Desired(revision=Revision(id=""), hub=HubSpec(), loaded={})


def _by_operator(plan: Plan) -> Plan:
    """Only what removes or drains, as the operator's doing; and a router that does not run."""
    router = tuple(c for c in plan.changes if c.kind == "router" and c.action is Action.CREATE)
    changes = tuple(
        replace(c, cause=Cause.OPERATOR, reason="the hub is taken down")
        for c in plan.changes
        if c.kind == "agent"
        and (
            c.action in (Action.REMOVE, Action.RECYCLE, Action.UPDATE)
            or (c.action is Action.HOLD and c.wait_s is not None)
        )
    )
    return replace(plan, changes=(*router, *changes))
