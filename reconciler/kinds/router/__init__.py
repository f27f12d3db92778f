"""The router: one process, kept running and configured like any other resource."""

from reconciler.kinds.kind import Kind, later
from reconciler.kinds.router.plan import plan
from reconciler.kinds.router.spec import contribute, load
from reconciler.kinds.router.state import RouterState

ROUTER = Kind(
    name="router",
    load=load,
    check=lambda _desired, _operator: (),
    contribute=contribute,
    observe=later("reconciler.kinds.router.observe", "observe"),
    plan=plan,
    apply=later("reconciler.kinds.router.apply", "apply"),
    nothing=lambda: RouterState(report=None),
)
