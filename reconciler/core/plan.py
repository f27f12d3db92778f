"""The plan as a value: ordered, comparable, JSON-serialisable; the same for people, checks, API and loop."""

from dataclasses import dataclass
from typing import Any

from reconciler.core.change import Action, Change
from reconciler.core.digest import digest
from reconciler.core.problem import Problem

REMOVING = frozenset({Action.REMOVE, Action.RECYCLE})


def is_removal(change: Change) -> bool:
    """Whether something goes for good by this change, or by what it prepares."""
    return change.action in REMOVING or change.towards in REMOVING


def is_addition(change: Change) -> bool:
    """Whether something new comes by this change, or is only waited for."""
    return Action.CREATE in (change.action, change.towards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A guard that refuses the plan whole; `confirm` is the digest that a person may confirm, or empty."""

    guard: str
    reason: str
    confirm: str = ""

    def to_json(self) -> dict[str, str]:
        return {"guard": self.guard, "reason": self.reason, "confirm": self.confirm}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`changes` holds KEEP entries too, in apply order. `compared_with`: engine, state, export, base or nothing."""

    revision: str
    compared_with: str
    changes: tuple[Change, ...] = ()
    refused: tuple[Refusal, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def pending(self) -> tuple[Change, ...]:
        """The changes that do something."""
        return tuple(c for c in self.changes if c.action is not Action.KEEP and c.action is not Action.HOLD)

    @property
    def digest(self) -> str:
        """Over the revision, and (kind, name, action, spec digest) of each removal: what a person confirms.

        What else the revision asks for follows from the revision itself. How much of it is left to do goes by what
        runs at the moment, such as a router that is not there yet, and is left out: it may change between the question
        and the answer.
        """
        rows = [
            [c.kind, c.instance or c.name, str(c.towards or c.action), c.spec_digest]
            for c in self.changes
            if is_removal(c)
        ]
        return digest([self.revision, sorted(rows)])

    def to_json(self, *, everything: bool = False) -> dict[str, Any]:
        """As in the contracts; KEEP entries only when `everything`."""
        shown = self.changes if everything else tuple(c for c in self.changes if c.action is not Action.KEEP)
        return {
            "revision": self.revision,
            "compared_with": self.compared_with,
            "digest": self.digest,
            "changes": [c.to_json() for c in shown],
            "kept": sum(c.action is Action.KEEP for c in self.changes),
            "refused": [r.to_json() for r in self.refused],
            "problems": [p.to_json() for p in self.problems],
        }
