"""The way out: one process that relays requests to models, kept running and configured like any other resource."""

from reconciler.kinds.egress.apply import apply, take_down
from reconciler.kinds.egress.findings import find
from reconciler.kinds.egress.observe import observe
from reconciler.kinds.egress.plan import plan
from reconciler.kinds.egress.spec import check, contribute, load
from reconciler.kinds.egress.state import EgressState
from reconciler.kinds.kind import Kind

EGRESS = Kind(
    name="egress",
    load=load,
    check=check,
    contribute=contribute,
    observe=observe,
    plan=plan,
    apply=apply,
    nothing=EgressState,
    find=find,
    take_down=take_down,
)
