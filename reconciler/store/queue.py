"""Which runs there is something to do about, and how many wait behind them.

Every question is answered by an index: it costs by what is read and by how many sorts of waiting there are, not by how
many runs wait or have ended. A `+` before a column keeps SQLite from the index of that column. Runs that ask for the
same (`line`, see `records.line_of`) of the same agent stand in one line, by rank and age.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from reconciler.store.records import DELEGATION, GitRunRecord, TaskRecord, line_of, select_tasks
from reconciler.store.store import Store

MOVING: Final = ("assigned", "running", "checking")
_FINAL: Final = "('succeeded', 'failed', 'timed_out', 'cancelled', 'rejected')"
_LISTED: Final = "(SELECT value FROM json_each(:{}))"


class Group(NamedTuple):
    """So many authorised runs of one line that depend on the same tasks; `line` is empty for the hub's own runs."""

    agent: str
    line: str
    needs: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """By when a run may be tried again: that of another boot may at once."""

    boot_id: str
    boottime_s: float


def groups(store: Store) -> Sequence[Group]:
    """All authorised runs, counted."""
    query = "SELECT agent, line, needs, count(*) FROM task WHERE state = 'authorised' GROUP BY agent, line, needs"
    found: Sequence[Group] = store.remembered("groups", lambda: [Group(*row) for row in store.rows(query)])
    return found


def parent_states(store: Store) -> Mapping[str, str]:
    """The state of the newest run of each name that an authorised run depends on; those that never ran are left out."""
    found: Mapping[str, str] = store.remembered("parent_states", lambda: _parent_states(store))
    return found


def _parent_states(store: Store) -> Mapping[str, str]:
    names = {name for needs in {g.needs for g in groups(store)} for name in names_of(needs)}
    query = f"SELECT name, state FROM task WHERE name IN {_LISTED.format('names')} ORDER BY created_at, run"
    return dict(store.rows(query, names=_compact(sorted(names)))) if names else {}


@lru_cache(maxsize=16384)
def names_of(needs: str) -> tuple[str, ...]:
    """The names in a `needs`."""
    return tuple(json.loads(needs)) if needs else ()


def later(store: Store, due: Due) -> Mapping[tuple[str, str, str], int]:
    """How many of each group (agent, line, needs) are to be tried again later."""
    query = (
        "SELECT agent, line, needs, count(*) FROM task WHERE state = 'authorised' "
        "AND not_before_boot > :now AND boot_id = :boot GROUP BY agent, line, needs"
    )
    return {(a, line, needs): n for a, line, needs, n in store.rows(query, now=due.boottime_s, boot=due.boot_id)}


def waiting(store: Store, due: Due) -> Mapping[str, int]:
    """How many runs of each agent could begin now, if only an instance of it were ready; delegated ones not counted."""
    states = parent_states(store)
    counts: Counter[str] = Counter()
    for group in groups(store):
        counts[group.agent] += group.size if _is_met(group.needs, states) else 0
    for (agent, _line, needs), count in later(store, due).items():
        counts[agent] -= count if _is_met(needs, states) else 0
    for agent, count in _delegated(store, due):
        counts[agent] -= count
    return {agent: count for agent, count in counts.items() if agent and count}


def _delegated(store: Store, due: Due) -> Sequence[Any]:
    """Runs of the same kind that get instances of their own, by agent."""
    query = (
        "SELECT agent, count(*) FROM task INDEXED BY ix_task_purpose WHERE state = 'authorised' AND purpose = :purpose "
        "AND NOT (not_before_boot > :now AND boot_id = :boot) GROUP BY agent"
    )
    return store.rows(query, purpose=DELEGATION, now=due.boottime_s, boot=due.boot_id)


def _is_met(needs: str, states: Mapping[str, str]) -> bool:
    return all(states.get(name) == "succeeded" for name in names_of(needs))


def count_in(store: Store, state: str) -> int:
    """How many runs are in a state."""
    return int(store.rows("SELECT count(*) FROM task WHERE state = :state", state=state)[0][0])


def counts(store: Store) -> Mapping[str, int]:
    """How many runs there are, by state."""
    return dict(store.rows("SELECT state, count(*) FROM task GROUP BY state"))


def ahead_of(store: Store, run: TaskRecord) -> int:
    """How many runs that are in the same state come before this one: in its line, or to be asked policy about."""
    same = "AND agent = :agent AND line = :line " if run.state == "authorised" else ""
    query = f"SELECT count(*) FROM task WHERE state = :state {same}AND (rank, created_at, run) < (:rank, :at, :run)"
    line = {"agent": run.agent, "line": line_of(run.manifest)[0]} if same else {}
    found = store.rows(query, state=run.state, rank=-run.priority, at=run.created_at, run=run.run, **line)
    return int(found[0][0])


# --- runs to look at --------------------------------------------------------------------------------------------------


def moving(store: Store) -> list[TaskRecord]:
    """Runs that an instance has or whose result is checked, and all unfinished ones that the hub made for others."""
    own = "state IN ('pending', 'authorised') AND purpose > ''"
    return [*select_tasks(store, f"state IN {MOVING}"), *select_tasks(store, own)]


def first_pending(store: Store, most: int) -> list[TaskRecord]:
    """Those that policy is asked about next."""
    return select_tasks(
        store, "state = 'pending' AND purpose = '' ORDER BY rank, created_at, run LIMIT :most", most=most
    )


def first_in_line(
    store: Store, agent: str, line: str, blocked: Collection[str], due: Due, most: int
) -> list[TaskRecord]:
    """Those that come next in a line, but for those that depend on what is `blocked` or are not due."""
    unblocked = f"AND needs NOT IN {_LISTED.format('blocked')} " if blocked else ""
    where = (
        f"state = 'authorised' AND agent = :agent AND line = :line {unblocked}"
        "AND NOT (not_before_boot > :now AND boot_id = :boot) ORDER BY rank, created_at, run LIMIT :most"
    )
    values = {"blocked": _compact(sorted(blocked))} if blocked else {}
    return select_tasks(store, where, agent=agent, line=line, now=due.boottime_s, boot=due.boot_id, most=most, **values)


def some_of(store: Store, wanted: Iterable[Group], most: int) -> list[TaskRecord]:
    """At most so many runs of these groups."""
    where = "state = 'authorised' AND agent = :agent AND line = :line AND needs = :needs ORDER BY run LIMIT :most"
    out: list[TaskRecord] = []
    for group in wanted:
        if len(out) >= most:
            break
        found = {"agent": group.agent, "line": group.line, "needs": group.needs}
        out += select_tasks(store, where, **found, most=most - len(out))
    return out


def soonest(store: Store, due: Due, most: int) -> list[TaskRecord]:
    """Those that are tried again next."""
    where = (
        "state = 'authorised' AND not_before_boot > :now AND boot_id = :boot ORDER BY not_before_boot, run LIMIT :most"
    )
    return select_tasks(store, where, now=due.boottime_s, boot=due.boot_id, most=most)


def used_up(store: Store, attempts: int, for_good: str, most: int) -> list[TaskRecord]:
    """Those that have had all their attempts (`attempts` where their manifest does not say), or failed `for_good`."""
    where = (
        "state = 'authorised' AND attempts > 0 AND attempts > spent AND (attempts - spent >= "
        "coalesce(json_extract(manifest, '$.spec.retries.maxAttempts'), :attempts) "
        "OR substr(reason, 1, length(:good)) = :good) ORDER BY run LIMIT :most"
    )
    return select_tasks(store, where, attempts=attempts, good=for_good, most=most)


def escalated(store: Store, to: str) -> list[TaskRecord]:
    """Ended runs that wait for this one, oldest first."""
    return select_tasks(store, f"escalated = :to AND state IN {_FINAL} ORDER BY created_at, run", to=to)


def untold(store: Store, to: str) -> list[TaskRecord]:
    """Ended runs whose end an agent is to be told, with nothing made for it; `to` is how `escalated` begins then."""
    where = (
        f"escalated > :to AND escalated < :to || '~' AND +state IN {_FINAL} AND NOT EXISTS (SELECT 1 FROM task AS own "
        "WHERE own.parent = task.run AND own.name = 'escalation-' || task.run || '-' || task.generation)"
    )
    return select_tasks(store, where, to=to)


def by_run(store: Store, runs: Collection[str]) -> list[TaskRecord]:
    return select_tasks(store, f"run IN {_LISTED.format('runs')}", runs=_compact(sorted(runs))) if runs else []


def delegated_below(store: Store) -> list[TaskRecord]:
    """What was delegated by runs that an instance has, and by those in turn, whatever became of it."""
    where = (
        "run IN (WITH RECURSIVE below(run) AS (SELECT run FROM task WHERE state IN ('assigned', 'running') UNION "
        "SELECT task.run FROM below JOIN task ON task.parent = below.run AND task.purpose = :purpose) "
        "SELECT run FROM below) AND purpose = :purpose"
    )
    return select_tasks(store, where, purpose=DELEGATION)


def above(store: Store, runs: Collection[str]) -> list[TaskRecord]:
    """These runs, what they were made for, and so on."""
    where = (
        "run IN (WITH RECURSIVE above(run) AS (SELECT value FROM json_each(:runs) UNION "
        "SELECT task.parent FROM above JOIN task ON task.run = above.run) SELECT run FROM above)"
    )
    return select_tasks(store, where, runs=_compact(sorted(runs))) if runs else []


def newest_by_name(store: Store, names: Collection[str]) -> list[TaskRecord]:
    """The newest run of each name."""
    where = f"name IN {_LISTED.format('names')} ORDER BY created_at, run"
    found = select_tasks(store, where, names=_compact(sorted(names))) if names else []
    return list({r.name: r for r in found}.values())


def checks_of(store: Store, runs: Collection[str]) -> list[TaskRecord]:
    """What the hub made to check the results of these runs."""
    where = f"parent IN {_LISTED.format('runs')} AND purpose = 'check'"
    return select_tasks(store, where, runs=_compact(sorted(runs))) if runs else []


def count_made_for(store: Store, run: str) -> int:
    """How many runs were made for this one."""
    return int(store.rows("SELECT count(*) FROM task WHERE parent = :run", run=run)[0][0])


def delegations(store: Store) -> list[TaskRecord]:
    """All runs that those under way asked for, and those that these asked for, finished or not."""
    below = (
        "WITH RECURSIVE below(run) AS (SELECT run FROM task WHERE state IN ('assigned', 'running') UNION "
        "SELECT task.run FROM task JOIN below ON task.parent = below.run WHERE task.purpose = :purpose) "
        "SELECT run FROM below"
    )
    return select_tasks(store, f"purpose = :purpose AND run IN ({below})", purpose=DELEGATION)


# --- git and schedules ------------------------------------------------------------------------------------------------


def git_runs(store: Store) -> Sequence[GitRunRecord]:
    """Runs of git in short."""
    columns = ", ".join(GitRunRecord._fields)
    once = f"SELECT {columns} FROM task WHERE source = 'git' AND purpose = '' AND schedule = ''"
    scheduled = f"SELECT {columns} FROM task WHERE state = '{{}}' AND schedule > '' AND source = 'git'"
    query = " UNION ALL ".join([once, scheduled.format("pending"), scheduled.format("authorised")])
    found: Sequence[GitRunRecord] = store.remembered(
        "git_runs", lambda: [GitRunRecord(*row) for row in store.rows(query)]
    )
    return found


def unfinished(store: Store) -> Mapping[str, int]:
    """How many runs of each schedule are not finished."""
    query = (
        "SELECT task.schedule, count(*) FROM task WHERE state IN ('pending', 'authorised', 'assigned', 'running', "
        "'checking') AND schedule > '' GROUP BY task.schedule"
    )
    found: Mapping[str, int] = store.remembered("unfinished", lambda: dict(store.rows(query)))
    return found


def newer_than_seen(store: Store) -> frozenset[str]:
    """Runs of schedules for what was due later than was seen to."""
    query = (
        "SELECT task.run FROM schedule CROSS JOIN task ON task.schedule = schedule.name AND task.due > schedule.since"
    )
    found: frozenset[str] = store.remembered("newer", lambda: frozenset(row[0] for row in store.rows(query)))
    return found


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
