"""The way out: one process that relays requests to models, kept running and configured like any other resource."""

from reconciler.kinds.egress.findings import find
from reconciler.kinds.egress.plan import plan
from reconciler.kinds.egress.spec import check, contribute, load
from reconciler.kinds.egress.state import EgressState
from reconciler.kinds.kind import Kind, later

EGRESS = Kind(
    name="egress",
    load=load,
    check=check,
    contribute=contribute,
    observe=later("reconciler.kinds.egress.observe", "observe"),
    plan=plan,
    apply=later("reconciler.kinds.egress.apply", "apply"),
    nothing=EgressState,
    find=find,
    take_down=later("reconciler.kinds.egress.apply", "take_down"),
)
