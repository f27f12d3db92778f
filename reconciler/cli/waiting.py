"""What one can wait for. A goal looks at a fleet at one moment and says whether it has come true, and what there is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from reconciler.cli.reading import FleetView
from reconciler.errors import UsageError
from reconciler.kinds.agent.state import Phase
from reconciler.kinds.task.state import FINAL, TaskState
from reconciler.loop.suspend import FLEET, read_suspensions
from reconciler.store import records
from reconciler.store.records import InstanceRecord

AGENT_STATES = ("ready", "drained", "quarantined", "suspended", "gone")
TASK_STATES = ("succeeded", "failed", "ended", "suspended")
CONVERGED, REVISION = "converged", "revision="
SHORTEST_REVISION = 4

_FAILED = frozenset({TaskState.FAILED, TaskState.TIMED_OUT, TaskState.REJECTED})
_WANTED = {"succeeded": frozenset({TaskState.SUCCEEDED}), "failed": _FAILED, "ended": FINAL}
_UNDER_WAY = (TaskState.ASSIGNED, TaskState.RUNNING)


class Outlook(StrEnum):
    """`never`: it cannot come true any more by waiting."""

    TRUE = "true"
    NOT_YET = "not yet"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a goal saw, and a sentence about it without a full stop."""

    outlook: Outlook
    message: str


Goal = Callable[[FleetView], Seen]


def parse_goal(subject: str | None, state: str, began: datetime) -> Goal:
    """What is waited for since `began`. Raises UsageError, which says what one can wait for."""
    if subject is None:
        return _parse_fleet_goal(state, began)
    kind, _, name = subject.partition("/")
    states = {"agent": AGENT_STATES, "task": TASK_STATES}.get(kind, ())
    if not states or not name:
        raise UsageError(f"{subject!r} is nothing to wait for; write agent/NAME or task/NAME")
    if state not in states:
        raise UsageError(f"--for {state!r}: one can wait for an {kind} to be one of {', '.join(states)}")
    if state == "suspended":
        return lambda fleet: _is_suspended(fleet, kind, name)
    if kind == "task":
        return lambda fleet: _has_ended(fleet, name, state)
    return _AGENT_GOALS[state](name)


def _parse_fleet_goal(state: str, began: datetime) -> Goal:
    if state == CONVERGED:
        return _has_converged
    revision = state.removeprefix(REVISION)
    if revision == state:
        raise UsageError(f"--for {state!r}: without KIND/NAME one can wait for {CONVERGED} or {REVISION}REV")
    if len(revision) < SHORTEST_REVISION:
        raise UsageError(f"--for {state!r}: write at least {SHORTEST_REVISION} characters of the revision's id")
    return lambda fleet: _is_applied(fleet, revision, began)


# --- the fleet --------------------------------------------------------------------------------------------------------


def _has_converged(fleet: FleetView) -> Seen:
    live = _ask(fleet)
    if not live:
        return _no_hub()
    if (why := _invalid(live)) or (why := "; ".join(r["reason"] for r in live["refused"])):
        return Seen(outlook=Outlook.NEVER, message=f"the fleet cannot converge: {why}")
    if live["converged"] and not live["behind"]:
        return Seen(outlook=Outlook.TRUE, message=f"the fleet has converged on {live['revision']['applied'][:12]}")
    ready = [is_ready for instances in live["ready"].values() for is_ready in instances.values()]
    true = ", ".join(sorted({c["type"] for c in live["conditions"]}))
    said = f"the fleet has not converged: {sum(ready)} of {len(ready)} instances are ready"
    return _not_yet(f"{said}; {true}" if true else said)


def _is_applied(fleet: FleetView, revision: str, began: datetime) -> Seen:
    """A revision after which another came at once has been applied, too."""
    if fleet.revision.startswith(revision):
        return Seen(outlook=Outlook.TRUE, message=f"revision {fleet.revision[:12]} is applied")
    for past in fleet.revisions:
        is_new = bool(past.applied_at) and datetime.fromisoformat(past.applied_at) >= began
        if is_new and past.id.startswith(revision):
            message = f"revision {past.id[:12]} was applied, and then {fleet.revision[:12]}"
            return Seen(outlook=Outlook.TRUE, message=message)
    live = _ask(fleet)
    if not live:
        return _no_hub()
    if (skipped := live["revision"].get("skipped", "")) and skipped.startswith(revision):
        why = next(c["message"] for c in live["conditions"] if (c["subject"], c["type"]) == ("hub", "RolledBack"))
        return Seen(outlook=Outlook.NEVER, message=f"revision {revision[:12]} is not applied: the fleet is {why}")
    if live["revision"]["candidate"].startswith(revision):
        if why := _invalid(live):
            return Seen(outlook=Outlook.NEVER, message=f"revision {revision[:12]} is not applied: {why}")
        if why := "; ".join(r["reason"] for r in live["refused"]):
            return _not_yet(f"revision {revision[:12]} is refused: {why}")
    return _not_yet(f"revision {fleet.revision[:12] or 'none'} is applied")


def _invalid(live: Mapping[str, Any]) -> str:
    """What is wrong with the newest revision; empty where it is good."""
    problems = live["revision"]["problems"]
    return f"it has {len(problems)} problem{'s' * (len(problems) > 1)}; first: {problems[0]}" if problems else ""


def _ask(fleet: FleetView) -> Mapping[str, Any]:
    """Empty also where the hub is of a release that does not say enough."""
    live = fleet.ask_hub()
    return live if "ready" in live else {}


def _no_hub() -> Seen:
    return _not_yet("no hub answers, or one of an older release")


def _not_yet(message: str) -> Seen:
    return Seen(outlook=Outlook.NOT_YET, message=message)


# --- agents -----------------------------------------------------------------------------------------------------------


def _is_ready(name: str) -> Goal:
    """As the plan of the hub's last pass says; sleeping instances count, since they are as they should be."""

    def look(fleet: FleetView) -> Seen:
        live = _ask(fleet)
        if not live:
            return _no_hub()
        known: Mapping[str, Mapping[str, bool]] = live["ready"]
        found = known.get(name)
        if found is None:
            found = {i: is_ready for of_agent in known.values() for i, is_ready in of_agent.items() if i == name}
            if not found:
                return _not_yet(f"the hub knows no agent or instance {name!r}")
        others = [i for i, is_ready in found.items() if not is_ready]
        count = f"{len(found) - len(others)} of {len(found)} instances of {name} are ready"
        if not others:
            return Seen(outlook=Outlook.TRUE, message=count)
        rows = {r.name: r for r in fleet.instances}
        return _not_yet(f"{count}: {'; '.join(_show(i, rows.get(i)) for i in others)}")

    return look


def _is_drained(name: str) -> Goal:
    def look(fleet: FleetView) -> Seen:
        orders = records.orders(fleet.store)
        rows = _instances(fleet, name)
        busy = {r.name: len(records.tasks_in(fleet.store, _UNDER_WAY, r.name)) for r in rows}
        others = [r for r in rows if r.name not in orders or orders[r.name].verb != "drain" or busy[r.name]]
        said = [f"{_show(r.name, r)}, with {busy[r.name]} tasks" for r in others]
        return _judge(name, rows, said, "drained")

    return look


def _is_quarantined(name: str) -> Goal:
    def look(fleet: FleetView) -> Seen:
        rows = _instances(fleet, name)
        return _judge(name, rows, [_show(r.name, r) for r in rows if r.phase != Phase.QUARANTINED], "quarantined")

    return look


def _is_gone(name: str) -> Goal:
    def look(fleet: FleetView) -> Seen:
        rows = _instances(fleet, name)
        if not rows:
            return Seen(outlook=Outlook.TRUE, message=f"there is no agent or instance {name!r} on record")
        return _not_yet("; ".join(_show(r.name, r) for r in rows))

    return look


_AGENT_GOALS: Mapping[str, Callable[[str], Goal]] = {
    "ready": _is_ready,
    "drained": _is_drained,
    "quarantined": _is_quarantined,
    "gone": _is_gone,
}


def _instances(fleet: FleetView, name: str) -> list[InstanceRecord]:
    return [r for r in fleet.instances if name in (r.name, r.agent)]


def _judge(name: str, rows: list[InstanceRecord], others: list[str], state: str) -> Seen:
    """Whether all instances are so; `others` says what those are that are not."""
    if not rows:
        return _not_yet(f"there is no agent or instance {name!r} on record")
    count = f"{len(rows) - len(others)} of {len(rows)} instances of {name} are {state}"
    if not others:
        return Seen(outlook=Outlook.TRUE, message=count)
    return _not_yet(f"{count}: {'; '.join(others)}")


def _show(name: str, row: InstanceRecord | None) -> str:
    if row is None:
        return f"{name} is not made yet"
    return f"{name} is {row.phase}{f' ({row.reason})' if row.reason else ''}"


# --- tasks, and what both can be --------------------------------------------------------------------------------------


def _has_ended(fleet: FleetView, name: str, state: str) -> Seen:
    task = fleet.task(name)
    if task is None:
        return _not_yet(f"there is no task {name!r}")
    message = f"task {task.name}: {task.state}{f': {task.reason}' if task.reason else ''}"
    if task.state in _WANTED[state]:
        return Seen(outlook=Outlook.TRUE, message=message)
    return Seen(outlook=Outlook.NEVER if task.state in FINAL else Outlook.NOT_YET, message=message)


def _is_suspended(fleet: FleetView, kind: str, name: str) -> Seen:
    """By its own name, or with its agent, or with the whole fleet."""
    agents = [f"agent/{r.agent}" for r in fleet.instances if kind == "agent" and r.name == name]
    for one in read_suspensions(fleet.store):
        if one.subject in (FLEET, f"{kind}/{name}", *agents):
            return Seen(outlook=Outlook.TRUE, message=f"{one.subject} is {one}")
    return _not_yet(f"{kind}/{name} is not suspended")
