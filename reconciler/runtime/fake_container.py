"""A container in memory, and how the port shows it. Values only."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.ports import ContainerState, ContainerSummary, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a container does: print, and end with `exit_code`, or at SIGTERM where that is None.

    `shutdown_s` is what it takes to end at SIGTERM; it is compared with the grace, not waited for.
    """

    exit_code: int | None = None
    output: str = ""
    shutdown_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class FakeContainer:
    id: str
    name: str
    image_id: str
    labels: Mapping[str, str]
    program: Program
    fields: dict[str, Any]
    state: str = "created"
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: str = ""
    pid: int = 0
    memory_in_use_bytes: int = 0
    cpu_s: float = 0.0
    output: list[str] = field(default_factory=list)


def limit_fields(limits: Limits) -> dict[str, float | int]:
    return {"cpus": limits.cpus, "memory_bytes": limits.memory_bytes, "pids": limits.pids}


def summarise(container: FakeContainer) -> ContainerSummary:
    return ContainerSummary(
        id=container.id,
        name=container.name,
        state=container.state,
        labels=container.labels,
        image_id=container.image_id,
    )


def describe(container: FakeContainer) -> ContainerState:
    return ContainerState(
        id=container.id,
        name=container.name,
        state=container.state,
        fields=copy.deepcopy(container.fields),
        labels=container.labels,
        exit_code=container.exit_code,
        oom_killed=container.oom_killed,
        started_at=container.started_at,
        pid=container.pid,
    )
