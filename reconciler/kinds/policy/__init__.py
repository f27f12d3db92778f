"""Policies: the Rego of a revision as one bundle that answers, or none of it."""

from reconciler.kinds.kind import Kind, later
from reconciler.kinds.policy.plan import plan
from reconciler.kinds.policy.spec import contribute, load, verify
from reconciler.kinds.policy.state import PolicyState

POLICY = Kind(
    name="policy",
    load=load,
    check=lambda _desired, _operator: (),
    contribute=contribute,
    observe=later("reconciler.kinds.policy.observe", "observe"),
    plan=plan,
    apply=later("reconciler.kinds.policy.apply", "apply"),
    nothing=PolicyState,
    verify=verify,
    take_down=later("reconciler.kinds.policy.apply", "take_down"),
)
