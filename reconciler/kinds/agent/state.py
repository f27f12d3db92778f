"""What is known of the fleet's instances: record, container, inspection and the router's report, side by side.

The lifecycle of an instance is `Phase` and `TRANSITIONS`; docs/operating.md draws it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.core.secret import SecretFault
from reconciler.kinds.kind import Listening
from reconciler.ports import ContainerState, ContainerSummary, InstanceReport
from reconciler.store.records import InstanceRecord, OrderRecord


class Phase(StrEnum):
    """Where in its lifecycle an instance is. Before `defined` ends and after `terminated` there is no record of it."""

    DEFINED = "defined"
    REGISTERED = "registered"
    ACTIVATING = "activating"
    HANDSHAKING = "handshaking"
    EXECUTING = "executing"
    UPGRADING = "upgrading"
    QUARANTINED = "quarantined"
    TERMINATING = "terminating"
    TERMINATED = "terminated"


_LIVE = frozenset({Phase.ACTIVATING, Phase.HANDSHAKING, Phase.EXECUTING, Phase.UPGRADING})
_OUT = frozenset({Phase.REGISTERED, Phase.QUARANTINED, Phase.TERMINATING})

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.DEFINED: frozenset({Phase.ACTIVATING}),
    Phase.REGISTERED: frozenset({Phase.ACTIVATING, Phase.QUARANTINED, Phase.TERMINATING}),
    Phase.ACTIVATING: (_LIVE | _OUT) - {Phase.ACTIVATING},
    Phase.HANDSHAKING: (_LIVE | _OUT) - {Phase.HANDSHAKING},
    Phase.EXECUTING: (_LIVE | _OUT) - {Phase.EXECUTING},
    Phase.UPGRADING: (_LIVE | _OUT) - {Phase.UPGRADING},
    Phase.QUARANTINED: frozenset({Phase.ACTIVATING, Phase.TERMINATING}),
    Phase.TERMINATING: _LIVE | {Phase.QUARANTINED, Phase.TERMINATED},
    Phase.TERMINATED: frozenset(),
}
"""Which phase may follow on which; each such step is one row of the audit log, with its cause.

`registered` is a record without a container: it sleeps until there is work. A replacement goes back to `activating`;
what was about to be removed and is wanted again goes on as what it still is. Nothing comes out of quarantine but by
being made anew.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceState:
    """One instance. Any part may be missing; `sealed` says whether the container carries our seal;
    `as_recorded` that the inspection was found to show what the record says (False: it has to be compared);
    `secrets` which of its secrets are not as their provider says. `order` is what an operator wants of it, and
    `worked_at` (ISO, UTC) when it last began or ended a task, where its manifest makes that matter."""

    name: str
    record: InstanceRecord | None = None
    container: ContainerSummary | None = None
    inspected: ContainerState | None = None
    report: InstanceReport | None = None
    sealed: bool = False
    as_recorded: bool = False
    secrets: Mapping[str, SecretFault] = field(default_factory=dict)
    order: OrderRecord | None = None
    worked_at: str = ""

    @property
    def is_serving(self) -> bool:
        """Whether it has shaken hands and runs."""
        is_running = self.container is not None and self.container.state == "running"
        return is_running and self.record is not None and self.record.phase == Phase.EXECUTING


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStates:
    """All instances by name, and for how long the router has been seen to listen to each.

    `lacking` says of secrets that were wanted why there is no value.
    """

    instances: Mapping[str, InstanceState] = field(default_factory=dict)
    listening: Listening = field(default_factory=Listening)
    lacking: Mapping[str, str] = field(default_factory=dict)
