"""What happened because of a commit, to an agent, with a task, or in a span of time: rows, messages, and the commit.

The words of a person come in, an `Account` goes out; everything is read, nothing changed.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from reconciler.audit.export import as_dict
from reconciler.audit.ledger import Ledger
from reconciler.audit.note import Note, read_note
from reconciler.audit.period import Period, parse_period
from reconciler.audit.trail import ACCEPT
from reconciler.errors import SourceError, UsageError
from reconciler.router.history import Selection, read_all
from reconciler.source.log import CommitFacts, GitLog
from reconciler.store import audit, records
from reconciler.store.audit import ChainedEntry, Choice
from reconciler.store.store import Store

_ABBREVIATED = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where it is all written: state.db, traffic.db, and git."""

    store: Store
    traffic: Path
    ledger: Ledger
    fleet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """How many messages of one sort there were; `recipient` is as sent, `code` of those that were denied."""

    count: int
    verdict: str
    agent: str
    type: str
    recipient: str
    code: str
    policy_revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """`commit`, `base` (what was in force before), `diff` and `note` are there where it is about a commit of git."""

    title: str
    rows: tuple[ChainedEntry, ...]
    messages: tuple[Messages, ...]
    commit: CommitFacts | None = None
    base: str = ""
    diff: str = ""
    note: Note | None = None
    remarks: tuple[str, ...] = ()

    @property
    def policies(self) -> tuple[str, ...]:
        """The policy revisions that were asked."""
        found = [r.entry.policy_revision for r in self.rows] + [m.policy_revision for m in self.messages]
        return tuple(dict.fromkeys(p for p in found if p))


def give_account(archive: Archive, what: str, now: datetime) -> Account:
    """Of a time (`24h`, `2026-11-01..2026-11-08`), `agent/NAME`, `task/NAME`, or whatever a bare word names.

    Raises UsageError where it names nothing, StoreError, RouterError.
    """
    if (period := parse_period(what, now)) is not None:
        return _of_period(archive, period)
    kind, slash, name = what.partition("/")
    if slash and kind == "agent":
        return _of_agent(archive, name)
    if slash and kind == "task":
        return _of_task(archive, name)
    if _instances(archive.store, what):
        return _of_agent(archive, what)
    if audit.has_rows(archive.store, "task", _task_name(archive.store, what)):
        return _of_task(archive, what)
    if (revision := _revision(archive, what)) is not None:
        return _of_revision(archive, revision)
    raise UsageError(
        f"{what!r} is no commit, agent or task that the log knows, and no time; write a commit id, agent/NAME, "
        "task/NAME, 24h, 2026-11-21 or 2026-11-01..2026-11-08"
    )


def as_json(account: Account) -> Mapping[str, Any]:
    """All of it."""
    commit = account.commit
    return {
        "title": account.title,
        "commit": {**asdict(commit), "revision": asdict(commit.revision)} if commit is not None else None,
        "base": account.base,
        "diff": account.diff,
        "note": asdict(account.note) if account.note is not None else None,
        "remarks": list(account.remarks),
        "policies": list(account.policies),
        "rows": [as_dict(row) for row in account.rows],
        "messages": [asdict(m) for m in account.messages],
    }


# --- a commit ---------------------------------------------------------------------------------------------------------


def _revision(archive: Archive, what: str) -> str | None:
    known = list(audit.first_rows(archive.store, "revision"))
    if _ABBREVIATED.fullmatch(what) or ":" in what:
        found = [revision for revision in known if revision.startswith(what)]
        if len(found) > 1:
            raise UsageError(f"{what} is the beginning of several revisions: {', '.join(f[:16] for f in found)}")
        if found:
            return found[0]
    with suppress(SourceError), closing(GitLog(archive.ledger.repository)) as log:
        return log.resolve(what)
    return None


def _of_revision(archive: Archive, revision: str) -> Account:
    rows = tuple(audit.choose(archive.store, Choice(revision=revision)))
    base, spans = _reign(archive.store, revision)
    messages: Counter[Messages] = Counter()
    for span in spans:
        messages += _count(archive.traffic, span)
    remarks: list[str] = []
    commit, diff, note = None, "", None
    if ":" not in revision:
        try:
            commit, base, diff, note = _read_git(archive, revision, base)
        except SourceError as exc:
            remarks.append(f"git: {exc}")
    if not rows:
        remarks.append("no row of the log: it was never in force")
    return Account(
        title=f"revision {revision}",
        rows=rows,
        messages=_sorted(messages),
        commit=commit,
        base=base,
        diff=diff,
        note=note,
        remarks=tuple(remarks),
    )


def _reign(store: Store, revision: str) -> tuple[str, list[Period]]:
    """What was in force before it, and the spans of time in which it was itself."""
    accepted = [r for r in audit.choose(store, Choice(kind="revision")) if r.entry.action == ACCEPT]
    base, spans = "", []
    for index, row in enumerate(accepted):
        if row.entry.name == revision:
            base = base or (json.loads(row.entry.before)["revision"] if row.entry.before else "")
            after = accepted[index + 1].entry.time if index + 1 < len(accepted) else ""
            until = datetime.fromisoformat(after) if after else None
            spans.append(Period(since=datetime.fromisoformat(row.entry.time), until=until))
    return base, spans


def _read_git(archive: Archive, revision: str, base: str) -> tuple[CommitFacts | None, str, str, Note | None]:
    """The commit, what its diff is against, the diff, and its note. Raises SourceError."""
    with closing(GitLog(archive.ledger.repository)) as log:
        known = log.commits([revision, base] if base else [revision])
        commit = known.get(revision)
        if commit is None:
            raise SourceError(f"commit {revision} is not in {archive.ledger.repository}")
        base = base if base in known else next(iter(commit.parents), "")
        notes = archive.ledger.notes(archive.fleet)
        text = notes.read_all().get(revision, "") if notes is not None else ""
        return commit, base, log.diff(base, revision), read_note(text)


# --- an agent, a task, a span of time ---------------------------------------------------------------------------------


def _instances(store: Store, name: str) -> tuple[str, ...]:
    """The instances of an agent that rows speak of; or the one of that name."""
    known = audit.first_rows(store, "name", kind="agent")
    return tuple(n for n in known if n == name or re.fullmatch(rf"{re.escape(name)}-\d+", n))


def _of_agent(archive: Archive, name: str) -> Account:
    instances = _instances(archive.store, name)
    if not instances:
        raise UsageError(f"no row of the log is about an agent {name!r}")
    rows = tuple(audit.choose(archive.store, Choice(kind="agent", names=instances)))
    return Account(title=f"agent {name}", rows=rows, messages=_sorted(_count(archive.traffic, Period(), name)))


def _task_name(store: Store, name: str) -> str:
    run = records.task(store, name)
    return run.name if run is not None else name


def _of_task(archive: Archive, name: str) -> Account:
    name = _task_name(archive.store, name)
    rows = tuple(audit.choose(archive.store, Choice(kind="task", names=(name,))))
    if not rows:
        raise UsageError(f"no row of the log is about a task {name!r}")
    runs = [run for run in records.tasks(archive.store) if run.name == name]
    messages: Counter[Messages] = Counter()
    for run in runs:
        for attempt in records.attempts(archive.store, run.run):
            if attempt.assigned_at:
                until = datetime.fromisoformat(attempt.ended_at) if attempt.ended_at else None
                span = Period(since=datetime.fromisoformat(attempt.assigned_at), until=until)
                messages += _count(archive.traffic, span, attempt.instance)
    return Account(title=f"task {name}", rows=rows, messages=_sorted(messages))


def _of_period(archive: Archive, period: Period) -> Account:
    since, until = period.texts
    rows = tuple(audit.choose(archive.store, Choice(since=since, until=until)))
    return Account(title=str(period), rows=rows, messages=_sorted(_count(archive.traffic, period)))


# --- messages ---------------------------------------------------------------------------------------------------------


def _count(traffic: Path, period: Period, agent: str | None = None) -> Counter[Messages]:
    """Messages of a time by sort, each with a count of 0 in itself. Raises RouterError."""
    out: Counter[Messages] = Counter()
    if not traffic.exists():
        return out
    since, until = period.seconds
    for row in read_all(traffic, Selection(agent=agent, since=since, until=until)):
        sort = Messages(
            count=0,
            verdict=row["verdict"],
            agent=row["agent"],
            type=row["type"] or "",
            recipient=row["recipient"] or "",
            code=row["code"] or "",
            policy_revision=row["policy_revision"] or "",
        )
        out[sort] += row["count"]
    return out


def _sorted(counts: Counter[Messages]) -> tuple[Messages, ...]:
    """Most frequent first."""
    return tuple(replace(sort, count=count) for sort, count in counts.most_common())
