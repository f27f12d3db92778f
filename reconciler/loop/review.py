"""What a person is told of a revision before it is merged: the plan, and what two revisions side by side show. Pure.

A plan says what a hub does. A review adds renames, settings that no resource shows, what policies said, and where in
the files each change was asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from reconciler.core.change import Action, Change, FieldChange, diff_fields
from reconciler.core.decision import Decision
from reconciler.core.move import Move, find_moves, moved
from reconciler.core.plan import Plan
from reconciler.core.problem import Problem
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Manifest
from reconciler.loop.admit import Opinion
from reconciler.loop.desired import HUB_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """All changes of one resource that are alike. `instances` are the names they are about, empty for the resource."""

    kind: str
    name: str
    action: Action
    reason: str
    fields: tuple[FieldChange, ...] = ()
    instances: tuple[str, ...] = ()
    is_disruptive: bool = False

    @property
    def subject(self) -> str:
        """`agent/writer`, `agent/writer-1`, or `agent/writer (3 instances)`."""
        if len(self.instances) == 1:
            return f"{self.kind}/{self.instances[0]}"
        return f"{self.kind}/{self.name}" + (f" ({len(self.instances)} instances)" if self.instances else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """`base` is the commit compared with, where one is; `fleet` and `as_of` are those of an export.

    `settings` is what differs in `hub.yaml`. `places` says by (kind, name) in which file and line a resource is, or
    was. `notes` are sentences about the comparison itself. Problems are in the plan.
    """

    plan: Plan
    base: str = ""
    fleet: str = ""
    as_of: datetime | None = None
    notes: tuple[str, ...] = ()
    settings: tuple[FieldChange, ...] = ()
    opinions: tuple[Opinion, ...] = ()
    places: Mapping[tuple[str, str], tuple[str, int]] = field(default_factory=dict)

    @property
    def moves(self) -> tuple[Move, ...]:
        return find_moves(self.plan.changes)

    @property
    def lines(self) -> Sequence[Line]:
        """What is shown: all that is done or held, as few lines as it takes, without what is shown as a move."""
        by_move = moved(self.moves)
        shown = (c for c in self.plan.changes if c.action is not Action.KEEP)
        return gather(c for c in shown if (c.kind, c.name) not in by_move)

    @property
    def exit_code(self) -> int:
        """0 nothing to do, 1 problems, 2 changes, 3 refused."""
        return 1 if self.plan.problems else 3 if self.plan.refused else 2 if self.plan.pending else 0

    def place(self, kind: str, name: str) -> tuple[str, int]:
        """The file and line of a resource; `hub.yaml` for what is in no file of its own."""
        return self.places.get((kind, name), (HUB_FILE, 1))

    def to_json(self, *, everything: bool = False) -> dict[str, Any]:
        """The plan of the contracts, and beside it what the review adds."""
        return {
            **self.plan.to_json(everything=everything),
            "base": self.base,
            "fleet": self.fleet,
            "as_of": self.as_of.isoformat() if self.as_of is not None else "",
            "notes": list(self.notes),
            "moves": [m.to_json() for m in self.moves],
            "settings": [f.to_json() for f in self.settings],
            "admission": [_show_opinion(o) for o in self.opinions],
        }


def problem_review(problems: Sequence[Problem], revision: str = "", notes: Sequence[str] = ()) -> Review:
    """Of a revision that cannot be planned."""
    return Review(plan=Plan(revision=revision, compared_with="nothing", problems=tuple(problems)), notes=tuple(notes))


def gather(changes: Iterable[Change]) -> list[Line]:
    """Changes that say the same of several instances of one resource as one line, in the order of the first."""
    lines: dict[tuple[Any, ...], Line] = {}
    for change in changes:
        key = (change.kind, change.name, change.action, change.reason, repr(change.fields), change.disruptive)
        known = lines.get(key)
        names = (change.instance,) if change.instance else ()
        if known is not None:
            lines[key] = replace(known, instances=(*known.instances, *names))
        else:
            lines[key] = _line(change, names)
    return list(lines.values())


def _line(change: Change, instances: tuple[str, ...]) -> Line:
    return Line(
        kind=change.kind,
        name=change.name,
        action=change.action,
        reason=change.reason,
        fields=change.fields,
        instances=instances,
        is_disruptive=change.disruptive,
    )


def compare_settings(base: Desired, desired: Desired) -> tuple[FieldChange, ...]:
    """What differs in `hub.yaml`, in its own words."""
    before, after = (d.hub.model_dump(mode="json", by_alias=True) for d in (base, desired))
    return diff_fields(before, after)


def find_places(*revisions: Desired | None) -> Mapping[tuple[str, str], tuple[str, int]]:
    """Where each resource is; the later revision wins."""
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for desired in revisions:
        if desired is None:
            continue
        for kind, loaded in desired.loaded.items():
            for name, resource in loaded.by_name.items():
                if file := getattr(resource, "file", ""):
                    places[kind, name] = (file, resource.line if isinstance(resource, Manifest) else 1)
    return places


def _show_opinion(opinion: Opinion) -> dict[str, Any]:
    manifest = opinion.manifest
    return {
        "kind": manifest.kind,
        "name": manifest.name,
        "file": manifest.file,
        "line": manifest.line,
        "head": _show_decision(opinion.own),
        "base": _show_decision(opinion.in_force) if opinion.in_force is not None else None,
    }


def _show_decision(decision: Decision) -> dict[str, Any]:
    return {"allow": decision.allow, "reasons": list(decision.reasons), "engine": decision.engine}
