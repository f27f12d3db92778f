"""Schemas: what the payload of each message type must look like."""

from reconciler.kinds.kind import Kind, later
from reconciler.kinds.schema.plan import plan
from reconciler.kinds.schema.spec import load

SCHEMA = Kind(
    name="schema",
    load=load,
    check=lambda _desired, _operator: (),
    contribute=lambda desired: {"schemas": {n: s.schema for n, s in sorted(desired.of("schema").items())}},
    observe=later("reconciler.kinds.schema.observe", "observe"),
    plan=plan,
    apply=later("reconciler.kinds.schema.apply", "apply"),
    nothing=dict,
)
