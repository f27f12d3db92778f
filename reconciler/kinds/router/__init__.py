"""The router: one process, kept running and configured like any other resource."""

from reconciler.kinds.kind import Kind
from reconciler.kinds.router.apply import apply
from reconciler.kinds.router.observe import observe
from reconciler.kinds.router.plan import plan
from reconciler.kinds.router.spec import contribute, load
from reconciler.kinds.router.state import RouterState

ROUTER = Kind(
    name="router",
    load=load,
    check=lambda _desired, _operator: (),
    contribute=contribute,
    observe=observe,
    plan=plan,
    apply=apply,
    nothing=lambda: RouterState(report=None),
)
