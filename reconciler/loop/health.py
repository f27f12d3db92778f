"""Which revision was last seen to do well, and the way back to it by itself where `loop.autoRollback` asks for that.

A revision is healthy once the fleet has been as it says, without a break, for as long as a roll-out is watched. Before
that, a roll-out that fails takes the fleet back to the revision that was healthy last.
"""

import re
from collections.abc import Callable, Sequence

from reconciler.core.caller import MAX_REASON, Caller
from reconciler.core.change import Action, Cause
from reconciler.core.outcome import Failed, Skipped
from reconciler.core.rollback import FLEET, HUB
from reconciler.core.standing import Standing
from reconciler.kinds.kind import Desired, Kind, World
from reconciler.loop.conditions import Fault
from reconciler.loop.kept import HEALTHY
from reconciler.loop.revision import Unfit
from reconciler.loop.rollback import of_fleet, read_rollbacks
from reconciler.loop.run import Loop, PassReport
from reconciler.loop.statuses import Progress, judge

_STALLED = re.compile(r"stalled after \d+ identical failures")


class Health:
    """Of one hub. `look` is called after each pass; `on_return` when the next one has to go back."""

    def __init__(self, world: World, loop: Loop, kinds: Sequence[Kind], on_return: Callable[[], None]) -> None:
        self._world, self._loop, self._kinds, self._on_return = world, loop, kinds, on_return
        self._progress = Progress(world.clock.boottime)
        self._unfit: tuple[str, str] = ("", "")

    def faults(self) -> Sequence[Fault]:
        """That the fleet should go back, and cannot."""
        revision, why = self._unfit
        return [("CannotGoBack", "Unfit", why)] if revision and revision == self._loop.revisions.applied else []

    def look(self, report: PassReport | None) -> None:
        """Note that the revision in force is healthy, or go back from it. Raises StoreError."""
        desired, revisions = self._loop.revisions.last_good(), self._loop.revisions
        if report is None or desired is None or not report.revision or report.revision != revisions.applied:
            return
        healthy = self._world.store.get_meta(HEALTHY) or ""
        if report.revision == healthy:
            return
        self._progress.note(report)
        if judge(report, self._progress).standing is Standing.SUCCESS:
            if self._progress.settled_s >= watched_s(desired, self._kinds):
                self._world.store.set_meta(HEALTHY, report.revision)
        elif healthy and desired.hub.loop.auto_rollback and (why := find_failed_roll_out(report)):
            self._go_back(healthy, report.revision, why)

    def _go_back(self, healthy: str, failed: str, why: str) -> None:
        if self._unfit[0] == failed or of_fleet(read_rollbacks(self._world.store)) is not None:
            return
        found = self._loop.roll_back(FLEET, healthy, Caller(proven=HUB, reason=why[:MAX_REASON]))
        if isinstance(found, Unfit):
            message = f"the roll-out of {failed[:12]} failed ({why}), and the fleet cannot go back: {found.reason}"
            self._unfit = failed, message
        else:
            self._on_return()


def watched_s(desired: Desired, kinds: Sequence[Kind]) -> float:
    """For how long a failure counts as that of the roll-out, at most."""
    return max((kind.watch(desired) for kind in kinds if kind.watch is not None), default=0.0)


def find_failed_roll_out(report: PassReport) -> str:
    """Which agent does not run as the revision says, through no fault of the host; empty where all may still do."""
    for change in (c for c in report.plan.changes if c.instance is not None):
        if change.concern is not None and change.concern.type == "RolledBack":
            return change.concern.message
        if change.action is Action.QUARANTINE and change.cause is Cause.CRASH:
            return f"{change.instance}: {change.reason}"
    for done in (d for d in report.done if d.change.instance is not None):
        match done.outcome:
            case Failed(reason=reason) | Skipped(reason=reason) if _STALLED.match(reason):
                return f"{done.change.instance} is {reason}"
    return ""
