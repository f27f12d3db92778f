"""What a report on a span of time holds: revisions, what was done, containers, and everything out of the ordinary.

Rows of the log and facts of git come in, a `Report` goes out. Pure; `page.py` shows it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.audit.note import Note
from reconciler.audit.trail import ACCEPT
from reconciler.audit.verify import Verdict
from reconciler.core.change import Action
from reconciler.source.log import CommitFacts
from reconciler.store.audit import AuditEntry, ChainedEntry

MAKES = frozenset({Action.CREATE, Action.REPLACE})
ENDS = frozenset({Action.REMOVE, Action.RECYCLE, Action.DEACTIVATE})
_PHASE = "phase"
_SUSPENDING = ("suspend", "resume", "Suspended")
_GOING_BACK = ("rollback", "rollback-end", "RolledBack")


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionLine:
    """One revision while it was in force: the row that accepted it, the commit as git has it, and how it came out."""

    row: ChainedEntry
    commit: CommitFacts | None
    note: Note | None
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerLine:
    """One container's life: by which row it was made, and by which it ended, if it did.

    `id` is the engine's; empty where the hub was killed before it could write it down.
    """

    name: str
    made: ChainedEntry
    id: str = ""
    ended: ChainedEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All rows are in order. `exceptions` are by title, in the order of `EXCEPTIONS`."""

    fleet: str
    period: str
    made_at: str
    verdict: Verdict
    revisions: tuple[RevisionLine, ...]
    done: tuple[ChainedEntry, ...]
    containers: tuple[ContainerLine, ...]
    exceptions: Mapping[str, tuple[ChainedEntry, ...]]
    rows: int


def _is_condition(type_: str) -> Callable[[ChainedEntry], bool]:
    return lambda row: row.entry.kind == "condition" and row.entry.action == type_


EXCEPTIONS: Mapping[str, Callable[[ChainedEntry], bool]] = {
    "Drift: what somebody changed by hand": lambda r: r.entry.cause == "drift" and r.entry.outcome != "intent",
    "Manual operations": lambda r: r.entry.cause == "operator" and r.entry.outcome != "intent",
    "Refused plans": _is_condition("PlanRefused"),
    "Revisions that were not valid": _is_condition("ConfigInvalid"),
    "Fall-backs of policy": _is_condition("PolicyFallback"),
    "Suspensions": lambda r: r.entry.action in _SUSPENDING,
    "Rollbacks": lambda r: r.entry.action in _GOING_BACK,
    "Tasks from the inbox or the API, with their manifests": lambda r: r.entry.cause in ("inbox", "api"),
    "Changes that failed": lambda r: r.entry.outcome == "failed",
    "Messages and reports that were refused": lambda r: r.entry.outcome == "refused" and r.entry.cause != "inbox",
    "Rewritten history": lambda r: r.entry.action == ACCEPT and r.entry.reason.startswith("rewritten"),
}


@dataclass(slots=True)
class Collector:
    """Takes all rows, and keeps what a report from `since` to `until` (ISO; empty where it is open) needs.

    Rows before the span count too: what was in force, and which containers ran, when it began.
    """

    since: str
    until: str
    accepted: list[ChainedEntry] = field(default_factory=list)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    done: list[ChainedEntry] = field(default_factory=list)
    exceptions: dict[str, list[ChainedEntry]] = field(default_factory=lambda: {title: [] for title in EXCEPTIONS})
    rows: int = 0
    _running: dict[str, ContainerLine] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    """Instances of which the one before is gone and the next one may have been made."""
    _ended: list[ContainerLine] = field(default_factory=list)

    def take(self, rows: Iterable[ChainedEntry]) -> None:
        for row in rows:
            if self.until and row.entry.time >= self.until:
                continue
            self._take_container(row)
            if row.entry.kind == "revision" and row.entry.action == ACCEPT:
                if row.entry.time < self.since:
                    self.accepted.clear()
                self.accepted.append(row)
            if row.entry.time >= self.since:
                self._take(row)

    @property
    def containers(self) -> tuple[ContainerLine, ...]:
        """Those that ran at any time of the span, in the order in which they were made."""
        ended = [line for line in self._ended if line.ended is not None and line.ended.entry.time >= self.since]
        lines = [*ended, *self._running.values()]
        return tuple(sorted(lines, key=lambda line: line.made.seq))

    def _take(self, row: ChainedEntry) -> None:
        self.rows += 1
        if row.entry.plan_digest and row.entry.outcome in ("applied", "failed"):
            self.outcomes.setdefault(row.entry.revision, Counter())[row.entry.outcome] += 1
            self.done.append(row)
        for title, is_it in EXCEPTIONS.items():
            if is_it(row):
                self.exceptions[title].append(row)

    def _take_container(self, row: ChainedEntry) -> None:
        """A container is there from the intent to make it, also where the hub was killed before it could say more.

        The intent to make another one of that name is the end of the one before, of which nobody may have heard since.
        """
        entry = row.entry
        if entry.kind != "agent":
            return
        if entry.action in MAKES and entry.outcome == "intent":
            self._end(row)
            self._running[entry.name] = ContainerLine(name=entry.name, made=row)
        elif entry.action in MAKES and entry.outcome == "failed":
            self._never_made(entry)
        elif entry.action in ENDS and entry.outcome == "applied":
            self._end(row)
        elif entry.action == _PHASE:
            self._take_phase(row)

    def _take_phase(self, row: ChainedEntry) -> None:
        """Where it names another container than the one that ran, that was made anew by some other action."""
        name, phase = row.entry.name, json.loads(row.entry.after)
        (self._begun.add if phase["phase"] == "activating" else self._begun.discard)(name)
        if phase["phase"] == "terminated":
            self._end(row)
        elif id_ := phase.get("container", ""):
            line = self._running.get(name)
            if line is None or line.id not in ("", id_):
                self._end(row)
                line = ContainerLine(name=name, made=row)
            self._running[name] = replace(line, id=id_)

    def _end(self, row: ChainedEntry) -> None:
        line = self._running.pop(row.entry.name, None)
        if line is not None:
            self._ended.append(replace(line, ended=row))

    def _never_made(self, entry: AuditEntry) -> None:
        """Where nothing was begun, what it should have replaced is still there. Else it may have been made."""
        if entry.name in self._begun:
            return
        intent = self._running.pop(entry.name, None)
        if intent is None or entry.action != Action.REPLACE:
            return
        before = next((line for line in reversed(self._ended) if line.ended is intent.made), None)
        if before is not None:
            self._ended.remove(before)
            self._running[entry.name] = replace(before, ended=None)


def build_report(
    collected: Collector,
    *,
    fleet: str,
    period: str,
    made_at: str,
    verdict: Verdict,
    commits: Mapping[str, CommitFacts],
    notes: Mapping[str, Note],
) -> Report:
    """Put what was collected beside what git says."""
    return Report(
        fleet=fleet,
        period=period,
        made_at=made_at,
        verdict=verdict,
        revisions=tuple(
            RevisionLine(
                row=row,
                commit=commits.get(row.entry.name),
                note=notes.get(row.entry.name),
                outcomes=collected.outcomes.get(row.entry.name, {}),
            )
            for row in collected.accepted
        ),
        done=tuple(collected.done),
        containers=collected.containers,
        exceptions={title: tuple(rows) for title, rows in collected.exceptions.items()},
        rows=collected.rows,
    )


def people(line: RevisionLine) -> Sequence[str]:
    """Who is behind a revision; by the log alone, where git does not know it."""
    return commit_people(line.commit) if line.commit is not None else [line.row.entry.actor]


def commit_people(commit: CommitFacts) -> Sequence[str]:
    """Author, committer where that is another one, approvals, and the key that signed."""
    author = commit.revision.author
    return [
        author,
        *([f"committed by {commit.committer}"] if commit.committer and commit.committer != author else []),
        *commit.approvals,
        *([f"signed with {commit.signer}"] if commit.signer else []),
    ]
