"""What is known of the fleet's instances: record, container, inspection and the router's report, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.kinds.kind import Listening
from reconciler.ports import ContainerState, ContainerSummary, InstanceReport
from reconciler.store.records import InstanceRecord


class Phase(StrEnum):
    """Words of the lifecycle that an instance's record carries."""

    ACTIVATING = "activating"
    HANDSHAKING = "handshaking"
    EXECUTING = "executing"
    UPGRADING = "upgrading"
    TERMINATING = "terminating"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceState:
    """One instance. Any part may be missing; `sealed` says whether the container carries our seal;
    `as_recorded` that the inspection was found to show what the record says (False: it has to be compared)."""

    name: str
    record: InstanceRecord | None = None
    container: ContainerSummary | None = None
    inspected: ContainerState | None = None
    report: InstanceReport | None = None
    sealed: bool = False
    as_recorded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStates:
    """All instances by name, and for how long the router has been seen to listen to each."""

    instances: Mapping[str, InstanceState] = field(default_factory=dict)
    listening: Listening = field(default_factory=Listening)
