"""What the router process says of itself, beside what it should know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.ports import RouterReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterState:
    """`report` is None while it does not answer; `entries` is what each recorded instance's entry should be."""

    report: RouterReport | None
    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    was_running: bool = False
