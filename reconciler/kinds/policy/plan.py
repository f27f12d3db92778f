"""What policies lack: another bundle, activated whole, and the OPA that the hub is to run. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.policy.spec import NAME, OPA, is_opa_managed
from reconciler.kinds.policy.state import OpaState, PolicyState
from reconciler.settings import DriftMode

_LOOK_AGAIN_S = 1.0


def plan(desired: Desired, observed: PolicyState, _facts: Facts) -> Sequence[Change]:
    """One change of the resource `policies`, and one of `opa` where the hub is to run it; none of what is not there."""
    return [*_plan_bundle(desired, observed), *_plan_opa(desired, observed.opa)]


def _plan_bundle(desired: Desired, observed: PolicyState) -> Sequence[Change]:
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


def _plan_opa(desired: Desired, observed: OpaState) -> Sequence[Change]:
    if not is_opa_managed(desired.hub):
        gone = _opa_change(Action.REMOVE, Cause.COMMIT, "hub.yaml does not ask for it any more", observed)
        return [gone] if observed.running else []
    if observed.program is None:
        reason = "there is no program opa on this host; the next engine answers"
        return [_opa_change(Action.KEEP, Cause.COMMIT, reason, observed)]
    if not observed.wanted:
        return [_opa_change(Action.HOLD, Cause.START, "waits until the router serves the policies", observed)]
    if not observed.running:
        cause = Cause.CRASH if observed.was_running else Cause.START
        return [_opa_change(Action.CREATE, cause, "it is not running", observed)]
    if observed.running != observed.wanted:
        return [_plan_drift(desired.hub.loop.drift.policies, observed)]
    return [_opa_change(Action.KEEP, Cause.COMMIT, "as in hub.yaml", observed)]


def _plan_drift(mode: DriftMode, observed: OpaState) -> Change:
    """The server runs, but was started with something else than one would be now."""
    changed = "its program or its configuration changed"
    match mode:
        case "correct":
            return _opa_change(Action.RESTART, Cause.DRIFT, changed, observed)
        case "report":
            held = _opa_change(Action.HOLD, Cause.DRIFT, f"{changed} (drift is only reported)", observed)
            return replace(held, wait_s=None)
        case "ignore":
            return _opa_change(Action.KEEP, Cause.DRIFT, f"{changed} (drift is ignored)", observed)


def _opa_change(action: Action, cause: Cause, reason: str, observed: OpaState) -> Change:
    return Change(
        kind="policy",
        name=OPA,
        action=action,
        cause=cause,
        reason=reason,
        spec_digest=observed.wanted,
        spec=observed.program,
        wait_s=_LOOK_AGAIN_S if action is Action.HOLD else None,
    )


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
