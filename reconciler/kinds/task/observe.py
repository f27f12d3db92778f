"""Reading the runs of tasks from the record: those that something can be done about now, and how many wait."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from reconciler.core.reading import Ok, Reading
from reconciler.kinds.kind import Listening, World
from reconciler.kinds.task.plan import OPERATOR, TO_AGENT
from reconciler.kinds.task.state import FINAL, FOR_GOOD, TaskState, TaskStates, how_far
from reconciler.kinds.task.step import recorded_spec
from reconciler.ports import RouterReport
from reconciler.settings import HubSpec
from reconciler.store import attempts, queue, records
from reconciler.store.queue import Due, Group
from reconciler.store.records import TaskRecord
from reconciler.store.store import Store

AT_ONCE = 100
"""So many runs policy is asked about in one pass, and so many end without one that can be carried out."""
SHOWN = 10
"""So many of those stand in the plan that can do nothing but wait for others, or for their time."""


def observe(world: World, report: Reading[RouterReport], hub: HubSpec) -> Reading[TaskStates]:
    """The runs that there may be something to do about. Raises StoreError."""
    due = Due(boot_id=world.clock.boot_id(), boottime_s=world.clock.boottime())
    return Ok(read_states(world.store, hub, due, world.router_watch.look(report, due.boottime_s)))


def read_states(store: Store, hub: HubSpec, due: Due, listening: Listening) -> TaskStates:
    """What is in the record, as far as it matters now; its cost does not grow with what waits. Raises StoreError."""
    unended = find_unended(store)
    without_result = records.runs_without_result(store)
    moving = queue.moving(store)
    more: dict[str, str] = {}
    blocked, doomed = _held_up(store)
    schedules = records.schedules(store)
    waiting = [
        *_pending(store, more),
        *_in_line(store, hub, due, moving, blocked, more),
        *_blocked(store, blocked, doomed, more),
        *_later(store, due, more),
        *queue.used_up(store, hub.orchestrator.retry.max_attempts, FOR_GOOD, AT_ONCE),
    ]
    over = [
        *queue.delegated_below(store),
        *queue.escalated(store, OPERATOR),
        *queue.untold(store, TO_AGENT),
        *queue.delegations(store),
        *queue.by_run(store, {*unended, *without_result}),
    ]
    runs = {r.run: r for r in (*moving, *waiting, *over)}
    return TaskStates(
        runs=tuple(sorted(runs.values(), key=lambda r: (r.created_at, r.run))),
        around=tuple(_around(store, runs.values())),
        more=more,
        unread=_unread(store, runs.values()),
        in_git=tuple(queue.git_runs(store)),
        unfinished=queue.unfinished(store),
        occurred=queue.newer_than_seen(store) if schedules else frozenset(),
        without_result=without_result,
        unended=unended,
        schedules=schedules,
        listening=listening,
    )


def find_unended(store: Store) -> Mapping[str, TaskState]:
    """Runs whose end somebody wrote by hand, and how far they are. Raises StoreError."""
    suspects = (records.task(store, run) for run in attempts.unended(store))
    found = {t.run: how_far(t, records.attempts(store, t.run)) for t in suspects if t is not None}
    return {run: state for run, state in found.items() if state is not None}


def _pending(store: Store, more: dict[str, str]) -> Sequence[TaskRecord]:
    found = queue.first_pending(store, AT_ONCE)
    if len(found) == AT_ONCE and (rest := queue.count_in(store, TaskState.PENDING) - len(found)) > 0:
        more[found[-1].run] = f"{rest} more are asked about next"
    return found


def _in_line(
    store: Store,
    hub: HubSpec,
    due: Due,
    moving: Iterable[TaskRecord],
    blocked: Collection[str],
    more: dict[str, str],
) -> Sequence[TaskRecord]:
    """Of each line as many runs as its agent may have room for, and one at least: it says why the line stands."""
    waits = queue.later(store, due)
    ready: Counter[tuple[str, str]] = Counter()
    for agent, line, needs, count in queue.groups(store):
        if line and needs not in blocked:
            ready[agent, line] += count - waits.get((agent, line, needs), 0)
    places = _places(store, hub, moving) if ready else {}
    out: list[TaskRecord] = []
    for (agent, line), count in sorted(ready.items()):
        most = max(1, places[agent]) if agent in places else AT_ONCE
        found = queue.first_in_line(store, agent, line, blocked, due, most)
        if found and count > len(found):
            more[found[-1].run] = f"{count - len(found)} more wait in line"
        out += found
    return out


def _places(store: Store, hub: HubSpec, moving: Iterable[TaskRecord]) -> Mapping[str, int]:
    """How many more runs each agent's instances on record could take, if all were ready."""
    has = [r for r in moving if r.state in (TaskState.ASSIGNED, TaskState.RUNNING)]
    left = hub.orchestrator.max_parallel_tasks - len(has)
    counts: Counter[str] = Counter()
    for record in records.instances(store).values():
        counts[record.agent] += _max_parallel(record.manifest)
    counts.subtract(r.agent for r in has if r.agent in counts)
    return {agent: min(count, left) for agent, count in counts.items()}


@lru_cache(maxsize=4096)
def _max_parallel(manifest: str) -> int:
    """How many runs at once an instance that was made from this takes."""
    written = json.loads(manifest).get("spec", {}).get("tasks") or {}
    return int(written.get("maxParallel", 1))


def _held_up(store: Store) -> tuple[set[str], set[str]]:
    """Which `needs` wait for others that are not finished, and which wait in vain."""
    states = queue.parent_states(store)
    blocked: set[str] = set()
    doomed: set[str] = set()
    for needs in {g.needs for g in queue.groups(store)}:
        found = [states.get(name, TaskState.PENDING) for name in queue.names_of(needs)]
        if any(s in FINAL and s != TaskState.SUCCEEDED for s in found):
            doomed.add(needs)
        if any(s != TaskState.SUCCEEDED for s in found):
            blocked.add(needs)
    return blocked, doomed


def _blocked(store: Store, blocked: set[str], doomed: set[str], more: dict[str, str]) -> Sequence[TaskRecord]:
    """Those that depend on what came to no good end, and some of those whose turn is not yet."""
    groups = queue.groups(store)
    ending = queue.some_of(store, _needing(groups, doomed), AT_ONCE)
    waiting = queue.some_of(store, _needing(groups, blocked - doomed), SHOWN)
    rest = sum(g.size for g in _needing(groups, blocked)) - len(ending) - len(waiting)
    if rest > 0:
        more[(waiting or ending)[-1].run] = f"{rest} more wait for other tasks"
    return [*ending, *waiting]


def _needing(groups: Iterable[Group], needs: Collection[str]) -> list[Group]:
    return [g for g in groups if g.needs in needs]


def _later(store: Store, due: Due, more: dict[str, str]) -> Sequence[TaskRecord]:
    found = queue.soonest(store, due, SHOWN)
    rest = sum(queue.later(store, due).values()) - len(found) if len(found) == SHOWN else 0
    if rest > 0:
        more[found[-1].run] = f"{rest} more are tried again later"
    return found


def _around(store: Store, runs: Iterable[TaskRecord]) -> Sequence[TaskRecord]:
    """What these depend on, were made for, or are checked by."""
    runs = list(runs)
    names = {name for r in runs if r.state not in FINAL for name in recorded_spec(r.manifest).depends_on}
    return [
        *queue.checks_of(store, {r.run for r in runs if r.state == TaskState.CHECKING}),
        *queue.above(store, {r.parent for r in runs if r.parent}),
        *queue.newest_by_name(store, names),
    ]


def _unread(store: Store, runs: Iterable[TaskRecord]) -> Mapping[str, int]:
    """How many authorised runs of each agent are not among these."""
    counts: Counter[str] = Counter()
    for group in queue.groups(store):
        counts[group.agent] += group.size
    counts.subtract(r.agent for r in runs if r.state == TaskState.AUTHORISED)
    return +counts
