"""Telling a forge how each revision comes out: its commit status is pending, then a success or a failure.

`attempt` is called when a revision is in force and before anything is made of it, `look` after each pass. What is told
is written with the row for the courier, so that it is told once, also over a restart; no pass waits for the forge.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import NamedTuple

from reconciler.core.change import Action, Cause, Change
from reconciler.core.condition import DEGRADING, Mode
from reconciler.core.fleet import FIRST_DELEGATE
from reconciler.core.outcome import Failed, Skipped
from reconciler.core.quantity import show_duration
from reconciler.core.standing import Standing
from reconciler.kinds.kind import Desired
from reconciler.loop.outbox import Outbox
from reconciler.loop.run import PassReport
from reconciler.ports import Clock
from reconciler.settings import FORGE_SINK
from reconciler.settings_notify import CommitStatus
from reconciler.store.store import Store

TOLD_STATUS = "told_commit_status"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OF_WORK = (Cause.START, Cause.TTL, Cause.DELEGATION)
"""Instances that come and go with their work say nothing of a revision, once they have been as it says."""


class Seen(NamedTuple):
    """How a revision stands after a pass, and why."""

    standing: Standing
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was told last: how the revision in force stands, since when it is attempted (ISO, UTC), and which one after
    it was rejected."""

    revision: str = ""
    standing: str = ""
    since: str = ""
    rejected: str = ""


class Statuses:
    """Of one hub."""

    def __init__(self, store: Store, outbox: Outbox, fleet: str, clock: Clock, settings: CommitStatus) -> None:
        """Raises StoreError."""
        self._store, self._outbox, self._fleet, self._clock = store, outbox, fleet, clock
        self._settings = settings
        self._told = Told(**json.loads(store.get_meta(TOLD_STATUS) or "{}"))
        self._progress = Progress(clock.boottime)
        self.again_in_s: float | None = None
        """When a pass has to look again, if nothing else happens; None where nothing is awaited."""

    def attempt(self, desired: Desired) -> None:
        """A revision is in force, and is to be made true. Raises StoreError."""
        revision, told = desired.revision.id, self._told
        if revision == told.revision or not _COMMIT.fullmatch(revision):
            return
        news = [(revision, Seen(Standing.PENDING, "being rolled out"))]
        if told.standing == Standing.PENDING:
            over = Seen(Standing.SUPERSEDED, f"superseded by {revision[:12]} before it had settled")
            news.insert(0, (told.revision, over))
        self._tell(news, Told(revision=revision, standing=Standing.PENDING, since=self._clock.now().isoformat()))

    def look(self, report: PassReport | None) -> None:
        """Tell what a pass has changed. Raises StoreError."""
        self.again_in_s = None
        if report is None:
            return
        newest, why = report.candidate, find_rejection(report)
        if why and newest not in (self._told.revision, self._told.rejected) and _COMMIT.fullmatch(newest):
            self._tell([(newest, Seen(Standing.FAILURE, why))], replace(self._told, rejected=newest))
        if report.revision and report.revision == self._told.revision:
            self._follow(report)

    def _follow(self, report: PassReport) -> None:
        """How the revision in force comes out; a success that is not young any more is only taken back by a person."""
        told, settings = self._told, self._settings
        age_s = (self._clock.now() - datetime.fromisoformat(told.since)).total_seconds()
        if told.standing == Standing.SUCCESS and age_s >= settings.deadline and not report.rollbacks:
            return
        self._progress.note(report)
        seen = judge(report, self._progress)
        if seen.standing is Standing.SUCCESS and self._progress.settled_s < settings.settle:
            seen = Seen(Standing.PENDING, "as it says, but not for long enough")
            self.again_in_s = settings.settle - self._progress.settled_s
        elif seen.standing is Standing.PENDING and age_s < settings.deadline:
            self.again_in_s = settings.deadline - age_s
        elif seen.standing is Standing.PENDING:
            why = f"not settled within {show_duration(settings.deadline)}: {seen.reason}"
            seen = Seen(Standing.FAILURE, why)
        if _is_news(told.standing, seen.standing):
            self._tell([(told.revision, seen)], replace(told, standing=seen.standing))

    def _tell(self, news: Sequence[tuple[str, Seen]], told: Told) -> None:
        now = self._clock.now().isoformat()
        rows = [
            row for revision, seen in news for row in self._outbox.address(FORGE_SINK, self._show(revision, seen, now))
        ]
        with self._store.transaction():
            self._outbox.keep(rows)
            self._store.set_meta(TOLD_STATUS, json.dumps(asdict(told)))
        self._told = told
        self._outbox.send(rows)

    def _show(self, revision: str, seen: Seen, now: str) -> str:
        settings, link = self._settings, self._settings.link or ""
        said = {
            "sha": revision,
            "state": seen.standing,
            "description": seen.reason[:1000],
            "context": settings.context or f"reconciler/{self._fleet}",
            "link": link.replace("{fleet}", self._fleet).replace("{revision}", revision),
        }
        id_ = hashlib.sha256(json.dumps([said, now]).encode()).hexdigest()[:32]
        return json.dumps({"id": id_, **said})


class Progress:
    """Which units have been as the revision in force says. In memory: a new hub looks again."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._revision = ""
        self._good: set[str] = set()
        self._settled_at: float | None = None
        self.left: Sequence[Change] = ()

    def note(self, report: PassReport) -> None:
        """What a pass found."""
        if report.revision != self._revision:
            self._revision, self._good, self._settled_at = report.revision, set(), None
        changes = [c for c in report.plan.changes if c.kind != "task" and not _is_delegate(c)]
        for change in changes:
            if change.action is Action.KEEP:
                self._good.add(change.unit)
            elif change.cause not in _OF_WORK:
                self._good.discard(change.unit)
        self.left = [c for c in changes if c.unit not in self._good]
        if self.left or report.mode is not Mode.NORMAL:
            self._settled_at = None
        elif self._settled_at is None:
            self._settled_at = self._now_s()

    @property
    def settled_s(self) -> float:
        """For how long everything has been as the revision says."""
        return self._now_s() - self._settled_at if self._settled_at is not None else 0.0


def find_rejection(report: PassReport) -> str:
    """Why the newest revision is not in force; empty where it is, or where it only takes its time."""
    if report.problems:
        count = len(report.problems)
        return f"{count} problem{'s' * (count > 1)}; first: {report.problems[0]}"
    if report.plan.refused:
        first = report.plan.refused[0]
        return f"refused by the guard {first.guard}: {first.reason}"
    if (back := next((r for r in report.rollbacks if r.is_of_fleet), None)) is not None:
        return str(back)
    if report.candidate == report.revision:
        return ""
    doubts = (c.message for c in report.conditions if (c.type, c.reason) == ("SourceUnverified", "Refused"))
    return next(doubts, "")


def judge(report: PassReport, progress: Progress) -> Seen:
    """How the revision in force stands after a pass. What only takes its time is pending."""
    if report.mode is not Mode.NORMAL:
        why = (f"{c.type}: {c.message}" for c in report.conditions if c.type in DEGRADING)
        return Seen(Standing.PENDING, next(why, "the hub is degraded"))
    if report.plan.refused and report.candidate == report.revision:
        return Seen(Standing.FAILURE, find_rejection(report))
    changes = [c for c in report.plan.changes if c.kind != "task"]
    if concern := next((c.concern for c in changes if c.concern is not None), None):
        return Seen(Standing.FAILURE, concern.message)
    if back := next((r for r in report.rollbacks if not r.is_of_fleet), None):
        return Seen(Standing.FAILURE, f"{back.subject} is {back}")
    undone = {d.change.unit: d.outcome.reason for d in report.done if isinstance(d.outcome, Failed | Skipped)}
    left = [f"{c.unit}: {undone.get(c.unit, c.reason)}" for c in progress.left]
    if stalled := next((text for text in left if ": stalled" in text), ""):
        return Seen(Standing.FAILURE, stalled)
    if left:
        return Seen(Standing.PENDING, left[0])
    count = sum(c.instance is not None for c in changes)
    return Seen(Standing.SUCCESS, f"everything is as it says, {count} instance{'s' * (count != 1)} among it")


def _is_news(told: str, now: Standing) -> bool:
    """Whether it is to be told. A success is taken back only as a failure."""
    match told:
        case Standing.PENDING:
            return now is not Standing.PENDING
        case Standing.SUCCESS:
            return now is Standing.FAILURE
        case _:
            return now is Standing.SUCCESS


def _is_delegate(change: Change) -> bool:
    """Whether it is about an instance that is there for one delegated run."""
    ordinal = (change.instance or "").rpartition("-")[2]
    return ordinal.isdecimal() and int(ordinal) >= FIRST_DELEGATE
