"""Which instances there is work for, where an agent's manifest lets them come and go with it. Pure."""

import math
from collections.abc import Sequence
from datetime import datetime

from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.kinds.kind import Facts


def needed(spec: AgentSpec, agent: str, states: Sequence[InstanceState], facts: Facts) -> frozenset[str]:
    """The instances of an agent that shall be up: all, unless it may sleep; then as many as its work takes.

    Those that are up come first, so that one sleeps while another works; who has a message is always among them.
    """
    if spec.idle is None:
        return frozenset(s.name for s in states)
    busy = [s.name for s in states if facts.busy.get(s.name)]
    called = [s.name for s in states if s.report is not None and s.report.mailbox_messages]
    tasks = sum(facts.busy.get(name, 0) for name in busy) + facts.waiting.get(agent, 0)
    ranked = sorted(states, key=lambda s: (s.name not in busy, s.container is None))
    return frozenset([*busy, *called, *(s.name for s in ranked[: math.ceil(tasks / spec.tasks.max_parallel)])])


def quiet_s(state: InstanceState, facts: Facts) -> float:
    """Seconds since it became ready, or last began or ended a task."""
    if state.record is None:
        return 0.0
    since = datetime.fromisoformat(state.record.updated_at)
    if state.worked_at:
        since = max(since, datetime.fromisoformat(state.worked_at))
    return (facts.now - since).total_seconds()


def is_used(state: InstanceState) -> bool:
    """Whether an instance of a per-task agent has been given its task."""
    record = state.record
    if record is None or not state.worked_at:
        return False
    return datetime.fromisoformat(state.worked_at) >= datetime.fromisoformat(record.created_at)


def is_asleep(state: InstanceState | None) -> bool:
    return state is not None and state.record is not None and state.record.phase == Phase.REGISTERED
