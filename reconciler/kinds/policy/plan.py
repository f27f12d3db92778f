"""Whether another bundle must become the one that answers: one change, for policies are activated whole. Pure."""

from collections.abc import Sequence

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.policy.observe import PolicyState
from reconciler.kinds.policy.spec import NAME


def plan(desired: Desired, observed: PolicyState, _facts: Facts) -> Sequence[Change]:
    """One change of the resource `policies`; none where git has no policies and none are active."""
    wanted = desired.of("policy").get(NAME)
    if wanted is None:
        if not observed.recorded:
            return []
        return [_change(Action.REMOVE, Cause.COMMIT, "no longer in git", observed.recorded, None)]
    if not observed.recorded:
        return [_change(Action.CREATE, Cause.COMMIT, f"new: {wanted.summary}", wanted.bundle.digest, wanted)]
    if observed.recorded != wanted.bundle.digest:
        field = FieldChange(path="digest", before=observed.recorded, after=wanted.bundle.digest)
        return [
            _change(Action.UPDATE, Cause.COMMIT, f"changed in git: {wanted.summary}", field.after, wanted, (field,))
        ]
    if observed.in_engine != wanted.bundle.digest:
        return [_change(Action.UPDATE, Cause.START, "to be loaded into the engine", wanted.bundle.digest, wanted)]
    return [_change(Action.KEEP, Cause.COMMIT, "as in git", wanted.bundle.digest, wanted)]


def _change(
    action: Action,
    cause: Cause,
    reason: str,
    digest: str,
    spec: object,
    fields: tuple[FieldChange, ...] = (),
) -> Change:
    return Change(
        kind="policy",
        name=NAME,
        action=action,
        cause=cause,
        reason=reason,
        fields=fields,
        spec_digest=digest,
        spec=spec,
    )
