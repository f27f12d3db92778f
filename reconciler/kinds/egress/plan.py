"""What the way out lacks: to run, its configuration, or the right set of instances. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.kinds.egress.spec import NAME, is_wanted, write_config
from reconciler.kinds.egress.state import EgressState
from reconciler.kinds.egress_entry import digest_providers, write_entry
from reconciler.kinds.kind import Desired, Facts
from reconciler.ports import EgressReport


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressWork:
    """What applying does: end it, start it, swap `config`, register `put`, revoke `remove`; in this order."""

    stop: bool = False
    start: bool = False
    config: Mapping[str, Any] | None = None
    put: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()


def plan(desired: Desired, observed: EgressState, _facts: Facts) -> Sequence[Change]:
    """One change of the resource `egress`; none where nobody asks for it and none runs."""
    report = observed.report
    if not is_wanted(desired.hub):
        if isinstance(report, Absent) and not observed.was_running:
            return []
        return [_change(Action.REMOVE, Cause.COMMIT, "hub.yaml declares no providers", EgressWork(stop=True))]
    config = write_config(desired, observed.keys)
    routes = digest_providers(desired.hub)
    entries = {name: write_entry(outgoing, desired.hub, routes) for name, outgoing in observed.outgoing.items()}
    match report:
        case Absent():
            cause = Cause.CRASH if observed.was_running else Cause.START
            work = EgressWork(start=True, config=config, put=entries)
            return [_change(Action.CREATE, cause, "it is not running", work)]
        case Unavailable(reason=reason):
            work = EgressWork(stop=True, start=True, config=config, put=entries)
            return [_change(Action.RESTART, Cause.CRASH, f"it does not answer: {reason}", work)]
        case Ok(value=running) if running.next_version:
            work = EgressWork(stop=True, start=True, config=config, put=entries)
            reason = f"its code is version {running.code_version}, this is {running.next_version}"
            code = FieldChange(path="code", before=running.code_version, after=running.next_version)
            return [_change(Action.RESTART, Cause.START, reason, work, (code,))]
        case Ok(value=running):
            return [_compare(running, config, entries)]


def _compare(report: EgressReport, config: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]) -> Change:
    put = {name: entry for name, entry in entries.items() if report.instances.get(name) != entry["digest"]}
    remove = tuple(sorted(report.instances.keys() - entries.keys()))
    is_stale = report.config_digest != config["digest"]
    fields: list[FieldChange] = []
    if is_stale:
        fields.append(FieldChange(path="configuration", before=report.config_digest, after=config["digest"]))
    fields.extend(FieldChange(path=f"instances.{n}", after="registered") for n in sorted(put))
    fields.extend(FieldChange(path=f"instances.{n}", before="registered") for n in remove)
    if not fields:
        return _change(Action.KEEP, Cause.COMMIT, "as in git", EgressWork(), digest=config["digest"])
    parts = ["its configuration changed"] if is_stale else []
    if put:
        parts.append(f"to be told token, route or work of {', '.join(sorted(put)[:3])}{', …' if len(put) > 3 else ''}")
    if remove:
        parts.append(f"{len(remove)} registered instances have no record")
    work = EgressWork(config=config if is_stale else None, put=put, remove=remove)
    cause = Cause.COMMIT if is_stale else Cause.START if put else Cause.DRIFT
    return _change(Action.UPDATE, cause, "; ".join(parts), work, tuple(fields), config["digest"])


def _change(
    action: Action,
    cause: Cause,
    reason: str,
    work: EgressWork,
    fields: tuple[FieldChange, ...] = (),
    digest: str = "",
) -> Change:
    return Change(
        kind=NAME, name=NAME, action=action, cause=cause, reason=reason, fields=fields, spec_digest=digest, spec=work
    )
