"""Policies: the Rego of a revision as one bundle that answers, or none of it."""

from reconciler.kinds.kind import Kind
from reconciler.kinds.policy.apply import apply, take_down
from reconciler.kinds.policy.observe import PolicyState, observe
from reconciler.kinds.policy.plan import plan
from reconciler.kinds.policy.spec import contribute, load, verify

POLICY = Kind(
    name="policy",
    load=load,
    check=lambda _desired, _operator: (),
    contribute=contribute,
    observe=observe,
    plan=plan,
    apply=apply,
    nothing=PolicyState,
    verify=verify,
    take_down=take_down,
)
