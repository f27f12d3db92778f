"""What is known of the way out: what the process says, and who should be registered with it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.reading import Absent, Reading
from reconciler.kinds.egress_entry import Outgoing
from reconciler.ports import EgressReport
from reconciler.settings import ProviderKey


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressState:
    """`keys` is what the operator says of providers, by name."""

    report: Reading[EgressReport] = field(default_factory=Absent)
    outgoing: Mapping[str, Outgoing] = field(default_factory=dict)
    keys: Mapping[str, ProviderKey] = field(default_factory=dict)
    was_running: bool = False
