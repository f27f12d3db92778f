"""What the router lacks: to run, the code of this hub, its configuration, or the right set of instances. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.router.state import RouterState


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterWork:
    """What applying does: start it in place of one of other code, swap `config`, register `put`, revoke `remove`."""

    start: bool = False
    config: Mapping[str, Any] | None = None
    put: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()


def plan(desired: Desired, observed: RouterState, _facts: Facts) -> Sequence[Change]:
    """Exactly one change, of the resource `router`."""
    report, config = observed.report, desired.route
    if report is None:
        cause = Cause.CRASH if observed.was_running else Cause.START
        work = RouterWork(start=True, config=config, put=observed.entries)
        return [_change(desired, Action.CREATE, cause, "it is not running", work)]
    if report.next_version:
        reason = f"its code is version {report.code_version}, this is {report.next_version}"
        code = FieldChange(path="code", before=report.code_version, after=report.next_version)
        work = RouterWork(start=True, config=config, put=observed.entries)
        return [_change(desired, Action.RESTART, Cause.START, reason, work, (code,))]
    fields: list[FieldChange] = []
    is_stale = report.config_digest != config["digest"]
    if is_stale:
        fields.append(FieldChange(path="configuration", before=report.config_digest, after=config["digest"]))
    put = {
        name: entry
        for name, entry in observed.entries.items()
        if name not in report.instances or report.instances[name].digest != entry["digest"]
    }
    remove = tuple(sorted(report.instances.keys() - observed.entries.keys()))
    fields.extend(FieldChange(path=f"instances.{n}", after="registered") for n in sorted(put))
    fields.extend(FieldChange(path=f"instances.{n}", before="registered") for n in remove)
    if not fields:
        return [_change(desired, Action.KEEP, Cause.COMMIT, "as in git", RouterWork())]
    work = RouterWork(config=config if is_stale else None, put=put, remove=remove)
    cause = Cause.COMMIT if is_stale else Cause.DRIFT
    return [_change(desired, Action.UPDATE, cause, _reason(is_stale, len(put), len(remove)), work, tuple(fields))]


def _reason(is_stale: bool, put: int, remove: int) -> str:
    parts = ["its configuration changed"] if is_stale else []
    if put:
        parts.append(f"{put} instances are not registered as recorded")
    if remove:
        parts.append(f"{remove} registered instances have no record")
    return "; ".join(parts)


def _change(
    desired: Desired,
    action: Action,
    cause: Cause,
    reason: str,
    work: RouterWork,
    fields: tuple[FieldChange, ...] = (),
) -> Change:
    return Change(
        kind="router",
        name="router",
        action=action,
        cause=cause,
        reason=reason,
        fields=fields,
        spec_digest=str(desired.route.get("digest", "")),
        spec=work,
    )
