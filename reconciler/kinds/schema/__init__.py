"""Schemas: what the payload of each message type must look like."""

from reconciler.kinds.kind import Kind
from reconciler.kinds.schema.apply import apply
from reconciler.kinds.schema.observe import observe
from reconciler.kinds.schema.plan import plan
from reconciler.kinds.schema.spec import load

SCHEMA = Kind(
    name="schema",
    load=load,
    check=lambda _desired, _operator: (),
    contribute=lambda desired: {"schemas": {n: s.schema for n, s in sorted(desired.of("schema").items())}},
    observe=observe,
    plan=plan,
    apply=apply,
    nothing=dict,
)
