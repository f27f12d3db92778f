"""Why an agent does not run, or that it does, in one sentence. Pure: what is planned for its instances comes in.

The reason is the plan's: there is no second opinion. What keeps a change from being applied comes in beside it.
"""

from collections.abc import Mapping, Sequence

from reconciler.core.change import Action, Change, show_suspended
from reconciler.core.condition import Mode
from reconciler.kinds.agent.state import Phase
from reconciler.store.records import InstanceRecord, UnitRecord

_MADE = (Action.CREATE, Action.REPLACE)
_IS: Mapping[Phase, str] = {
    Phase.DEFINED: "is not made yet",
    Phase.REGISTERED: "sleeps",
    Phase.ACTIVATING: "is being started",
    Phase.HANDSHAKING: "has started, and has not shaken hands",
    Phase.EXECUTING: "runs",
    Phase.UPGRADING: "runs, and takes no new tasks",
    Phase.QUARANTINED: "is in quarantine",
    Phase.TERMINATING: "is being removed",
    Phase.TERMINATED: "is gone",
}


def explain_agent(
    name: str,
    changes: Sequence[Change],
    units: Mapping[str, UnitRecord],
    mode: Mode = Mode.NORMAL,
    suspended: str = "",
) -> str:
    """One sentence on an agent, or on one instance; `changes` is the plan of all. Empty where there is none.

    `suspended` says by whom it is, where it is.
    """
    found = [c for c in changes if name in (c.name, c.instance)]
    if not found:
        return ""
    is_said = not suspended or any(c.suspended is not None for c in found)
    note = "" if is_said else f"; it is {suspended}, and nothing would be done without that"
    return f"{_explain_all(name, found, units, mode)}{note}."


def _explain_all(name: str, found: Sequence[Change], units: Mapping[str, UnitRecord], mode: Mode) -> str:
    if len(found) == 1:
        return explain_instance(found[0], units.get(found[0].unit), mode)
    ready = [c for c in found if c.action is Action.KEEP and _phase(c) in (None, Phase.EXECUTING)]
    if len(ready) == len(found):
        return f"agent {name} runs with all {len(found)} instances, as git says"
    if held := [c for c in found if c.suspended is not None]:
        return _explain_held(name, held)
    others = (explain_instance(c, units.get(c.unit), mode) for c in found if c not in ready)
    return f"agent {name} runs with {len(ready)} of {len(found)} instances: {'; '.join(others)}"


def _explain_held(name: str, held: Sequence[Change]) -> str:
    """By whom it is suspended, and what would be done with which instance."""
    found = [(c.instance, c.suspended) for c in held if c.suspended is not None]
    would = "; ".join(f"{s.would} {instance}: {s.reason}" for instance, s in found)
    return f"agent {name} is {found[0][1].by}; without that the hub would {would}"


def find_ready(changes: Sequence[Change]) -> Mapping[str, Mapping[str, bool]]:
    """Which instances of each agent are as git says and at work, or asleep as they may be."""
    out: dict[str, dict[str, bool]] = {}
    for change in changes:
        if change.kind == "agent" and change.instance:
            is_ready = change.action is Action.KEEP and _phase(change) in (None, Phase.EXECUTING, Phase.REGISTERED)
            out.setdefault(change.name, {})[change.instance] = is_ready
    return out


def explain_without_hub(name: str, records: Sequence[InstanceRecord], suspended: str = "") -> str:
    """The same from the record alone; empty where there is nothing of that name on it."""
    note = f"; it is {suspended}" if suspended else ""
    found = [r for r in records if name in (r.agent, r.name)]
    said = (f"{r.name} {_IS[Phase(r.phase)]}{f' ({r.reason})' if r.reason else ''}" for r in found)
    return f"{'; '.join(said)}, by the record, and no hub runs to go on with it{note}." if found else ""


def explain_instance(change: Change, unit: UnitRecord | None = None, mode: Mode = Mode.NORMAL) -> str:
    """What one instance does and why, without a full stop."""
    phase = _phase(change)
    subject = f"{change.instance} {_IS[phase or Phase.EXECUTING]}"
    if change.suspended is not None:
        return f"{subject}, and is {show_suspended(change.suspended)}"
    obstacle = _obstacle(change, unit, mode)
    if obstacle:
        return f"{subject}: {obstacle}"
    if change.action is Action.KEEP:
        return f"{subject}: {change.reason}"
    if change.action is Action.HOLD:
        when = f" (looked at again in {change.wait_s:.0f}s)" if change.wait_s is not None else ""
        return f"{subject}: {change.reason}{when}"
    return f"{subject}, and the hub is about to {change.action} it: {change.reason}"


def _phase(change: Change) -> Phase | None:
    """Where the instance is in its lifecycle; None where the plan has nothing to say of it but that it is kept."""
    if change.spec is None:
        return None
    record = change.spec.state.record
    return Phase(record.phase) if record is not None else Phase.DEFINED


def _obstacle(change: Change, unit: UnitRecord | None, mode: Mode) -> str:
    """What keeps the change from being applied."""
    if change.action in (Action.HOLD, Action.KEEP):
        return ""
    if mode is Mode.DEGRADED and change.action in _MADE:
        return f"the hub is degraded and makes nothing new ({change.reason})"
    if unit is not None and unit.stalled:
        return f"stalled after {unit.same_failures} identical failures, until another revision: {unit.reason}"
    if unit is not None:
        return f"it failed {unit.failures} times and is tried again soon: {unit.reason}"
    return ""
