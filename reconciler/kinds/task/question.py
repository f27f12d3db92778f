"""What policy is asked about a task and the agent that would do it (`data.hub.task.decision`). Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from reconciler.core.fleet import AgentView
from reconciler.kinds.task.spec import TaskSpec


def write_question(
    spec: TaskSpec,
    agent: AgentView,
    *,
    name: str,
    labels: Mapping[str, str],
    source: str,
    uid: int | None,
    revision: str,
    now: datetime,
) -> Mapping[str, Any]:
    """`uid` is of who dropped or handed it in, None for a task of git. `now` is cut to the minute."""
    return {
        "task": {
            "name": name,
            "labels": dict(labels),
            "sensitivity": spec.sensitivity,
            "source": source,
            "uid": uid,
            "requires": list(spec.requires),
            "priority": spec.priority,
            "revision": revision,
        },
        "agent": {
            "name": agent.name,
            "role": agent.role,
            "labels": dict(agent.labels),
            "capabilities": list(agent.capabilities),
            "trust": agent.trust,
            "exposure": agent.exposure,
            "sandboxed": agent.sandboxed,
        },
        "time": show_minute(now),
    }


def show_minute(now: datetime) -> str:
    """The time as policies see it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:00Z")
