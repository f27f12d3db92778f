"""Renames: what goes under one name and comes under another with the same specification. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.core.change import Action, Change
from reconciler.core.plan import is_addition, is_removal

_FOLLOWS = {"agent": "; its instances are made anew", "task": "; it runs again"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One resource under another name. `before` and `after` are names of the kind `kind`.

    `keeps_files`: what comes waits for what goes, and takes over its workspaces.
    """

    kind: str
    before: str
    after: str
    keeps_files: bool = False

    @property
    def reason(self) -> str:
        """What it is and what follows, for a person."""
        files = ", with the workspaces that they had" if self.keeps_files else ""
        return f"the same spec under another name{_FOLLOWS.get(self.kind, '')}{files}"

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "before": self.before, "after": self.after}


def find_moves(changes: Iterable[Change]) -> tuple[Move, ...]:
    """Names of which all goes, beside those of which all comes with the same digest; by kind and name.

    Where several have the same digest they are paired in the order of their names.
    """
    waiting: set[tuple[str, str]] = set()
    digests: dict[tuple[str, str], set[tuple[bool, bool, str]]] = {}
    for change in changes:
        going = is_removal(change) or change.action is Action.CANCEL
        coming = is_addition(change)
        if change.towards is Action.CREATE:
            waiting.add((change.kind, change.name))
        digests.setdefault((change.kind, change.name), set()).add((going, coming, change.spec_digest))
    gone: dict[tuple[str, str], list[str]] = {}
    come: dict[tuple[str, str], list[str]] = {}
    for (kind, name), found in sorted(digests.items()):
        if len(found) != 1:
            continue
        going, coming, digest = next(iter(found))
        if digest and (going or coming):
            (gone if going else come).setdefault((kind, digest), []).append(name)
    moves = [
        Move(kind=kind, before=before, after=after, keeps_files=(kind, after) in waiting)
        for (kind, digest), names in gone.items()
        for before, after in zip(names, come.get((kind, digest), ()), strict=False)
    ]
    return tuple(sorted(moves, key=lambda m: (m.kind, m.before)))


def moved(moves: Iterable[Move]) -> frozenset[tuple[str, str]]:
    """Kind and name of each resource whose changes a move stands for."""
    return frozenset((m.kind, name) for m in moves for name in (m.before, m.after))
