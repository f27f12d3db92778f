"""Which settings of `hub.yaml` a changed configuration comes from, said in the plan. Pure.

A process that is configured by the hub is compared by a digest of its whole configuration, which says only that it is
another one. What stood in `hub.yaml` before is known by the revision that was accepted last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reconciler.core.change import Change, FieldChange, diff_fields
from reconciler.core.plan import Plan
from reconciler.settings import HubSpec

CONFIGURATION = "configuration"
"""The path of the field that stands for a whole configuration."""

SHOWN = 4
_POLICY = ("policy.engines", "policy.opa", "policy.cache")
_SETTINGS: Mapping[str, Sequence[str]] = {
    "router/router": (
        *("router", *_POLICY, "policy.lastResort.message"),
        *("orchestrator.allowCrossAgent", "orchestrator.cryptoRequired"),
    ),
    "egress/egress": ("providers", "sensitivity", "egress", *_POLICY, "policy.lastResort.llm"),
}
"""What of `hub.yaml` the configuration of each process is made of, by unit."""


def name_settings(plan: Plan, before: HubSpec | None, after: HubSpec) -> Plan:
    """The plan, with the settings that differ in the changes that they lead to. Nothing is known of what is None."""
    if before is None or not any(_is_reconfigured(c) for c in plan.changes):
        return plan
    old, new = (hub.model_dump(mode="json", by_alias=True) for hub in (before, after))
    fields = diff_fields(old, new)
    return replace(plan, changes=tuple(_name(c, fields) if _is_reconfigured(c) else c for c in plan.changes))


def _is_reconfigured(change: Change) -> bool:
    return change.unit in _SETTINGS and any(f.path == CONFIGURATION for f in change.fields)


def _name(change: Change, fields: Sequence[FieldChange]) -> Change:
    found = [f for f in fields if any(f"{f.path}.".startswith(f"{path}.") for path in _SETTINGS[change.unit])]
    if not found:
        return change
    shown = ", ".join([*(f.path for f in found[:SHOWN]), *(["…"] if len(found) > SHOWN else [])])
    named = tuple(replace(f, path=f"hub.yaml {f.path}") for f in found)
    return replace(change, reason=f"{change.reason}; in hub.yaml: {shown}", fields=(*change.fields, *named))
