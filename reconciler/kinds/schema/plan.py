"""Which message schemas become active, change or go. Pure."""

from collections.abc import Mapping, Sequence

from reconciler.core.change import Action, Change, FieldChange
from reconciler.kinds.kind import Desired, Facts


def plan(desired: Desired, observed: Mapping[str, str], _facts: Facts) -> Sequence[Change]:
    """`observed`: digest by message type, as last activated."""
    wanted = desired.of("schema")
    out: list[Change] = []
    for name in sorted(observed.keys() - wanted.keys()):
        out.append(_change(name, Action.REMOVE, "no longer in git", observed[name], wanted))
    for name, schema in sorted(wanted.items()):
        before = observed.get(name)
        if before is None:
            out.append(_change(name, Action.CREATE, "new", schema.digest, wanted))
        elif before != schema.digest:
            field = FieldChange(path="digest", before=before, after=schema.digest)
            out.append(_change(name, Action.UPDATE, "changed in git", schema.digest, wanted, (field,)))
        else:
            out.append(_change(name, Action.KEEP, "as in git", schema.digest, wanted))
    return out


def _change(
    name: str,
    action: Action,
    reason: str,
    digest: str,
    wanted: Mapping[str, object],
    fields: tuple[FieldChange, ...] = (),
) -> Change:
    return Change(
        kind="schema",
        name=name,
        action=action,
        reason=reason,
        spec_digest=digest,
        fields=fields,
        spec=wanted.get(name),
    )
