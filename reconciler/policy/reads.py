"""Which values of its input an entry point can read, found in its plan. Pure.

A `Plan` is OPA's intermediate representation, reduced to what matters here: which local holds what of which other one.
Local 0 is the input of the plan and of each function. So the chains of `DotStmt` that begin there are the paths that
are read; a local that is used in any other way is read as a whole, with everything below it. What is found is never
less than what an evaluation can look at, and two inputs that agree on it get the same answer.

Nothing can be told where the whole input is used, where a rule is called by a name that is computed, and where a
function may answer differently the next time.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

INPUT = 0
MAX_DEPTH = 8

Operand: TypeAlias = int | str | None
"""A local by its number, a constant text, or any other constant."""

Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement by OPA's name. `operands` is what it uses, in OPA's order; `target` the local that it sets.

    `function` is the name of what a `CallStmt` calls; `blocks` are the statements inside.
    """

    name: str
    operands: tuple[Operand, ...] = ()
    target: int | None = None
    function: str = ""
    blocks: tuple[tuple["Statement", ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A rule or function; its first parameter is the input, the second one the data."""

    parameters: tuple[int, ...]
    result: int
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Bodies by entry point, such as `hub/answer/message`, and what they call by name."""

    entry_points: Mapping[str, tuple[Statement, ...]]
    functions: Mapping[str, Function]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """`paths` is sorted, and none is below another; `obstacle` says why nobody can tell, and is empty otherwise."""

    paths: tuple[Path, ...] = ()
    obstacle: str = ""

    def to_json(self) -> dict[str, object]:
        return {"obstacle": self.obstacle} if self.obstacle else {"paths": [list(path) for path in self.paths]}


def reads_from_json(value: Mapping[str, Any]) -> Reads:
    """The opposite of `to_json`."""
    return Reads(paths=tuple(tuple(path) for path in value.get("paths", ())), obstacle=value.get("obstacle", ""))


def find_reads(plan: Plan, entry_point: str) -> Reads:
    """What the entry point can read. Raises KeyError where the plan has none of that name."""
    search = _Search(plan)
    search.run(entry_point)
    if search.obstacles:
        return Reads(obstacle=min(search.obstacles))
    paths = search.paths()
    if () in paths:
        return Reads(obstacle="it uses input as a whole")
    return Reads(paths=tuple(sorted(path for path in paths if not any(path[:n] in paths for n in range(1, len(path))))))


_Local: TypeAlias = tuple[str, int]
"""Locals are numbered anew in each function."""


class _Search:
    """Follows the parts of the input through locals, calls and results until nothing new is found.

    `held` says which parts a local may hold, over all calls; `consumed` which locals' parts are told by what is made of
    them; `whole` which parts are used as they are.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._held: dict[_Local, set[Path]] = defaultdict(set)
        self._consumed: set[_Local] = set()
        self._whole: set[Path] = set()
        self._reached: dict[str, tuple[Statement, ...]] = {}
        self._repeated: dict[str, set[int]] = {}
        self.obstacles: set[str] = set()

    def run(self, entry_point: str) -> None:
        self._reach("", self._plan.entry_points[entry_point])
        size = -1
        while size != (size := self._size()):
            for name, body in list(self._reached.items()):
                self._visit(name, body)

    def paths(self) -> set[Path]:
        """Everything that is read. What a local holds that nothing is made of is read too: that it is there."""
        unused = {path for local, held in self._held.items() if local not in self._consumed for path in held}
        return self._whole | unused

    def _size(self) -> int:
        found = sum(map(len, self._held.values()))
        return found + len(self._whole) + len(self._consumed) + len(self._reached)

    def _reach(self, name: str, body: tuple[Statement, ...]) -> None:
        self._reached[name] = body
        self._repeated[name] = _find_repeated(body)
        self._held[name, INPUT].add(())
        self._consumed.add((name, INPUT))

    def _visit(self, name: str, body: Sequence[Statement]) -> None:
        for statement in body:
            self._follow(name, statement)
            for block in statement.blocks:
                self._visit(name, block)

    def _follow(self, name: str, statement: Statement) -> None:
        match statement.name:
            case "DotStmt":
                self._follow_dot(name, statement)
            case "AssignVarStmt":
                self._pass_on(name, statement.operands[0], (name, statement.target or 0))
            case "AssignVarOnceStmt":
                # Set twice, the two values are compared.
                if statement.target in self._repeated[name]:
                    self._use(name, statement.operands)
                self._pass_on(name, statement.operands[0], (name, statement.target or 0))
            case "CallStmt":
                self._follow_call(name, statement)
            case "ReturnLocalStmt":
                self._consumed.update((name, local) for local in statement.operands if isinstance(local, int))
            case "IsDefinedStmt" | "IsUndefinedStmt" | "ResetLocalStmt":
                # How far a path leads is part of what is read at it.
                pass
            case "CallDynamicStmt":
                self.obstacles.add("it calls a rule by a name that it computes")
            case "WithStmt":
                self.obstacles.add("it uses 'with'")
            case _:
                self._use(name, statement.operands)

    def _follow_dot(self, name: str, statement: Statement) -> None:
        source, key = statement.operands[:2]
        self._use(name, [key])
        if not isinstance(source, int):
            return
        self._consumed.add((name, source))
        for path in list(self._held[name, source]):
            if isinstance(key, str) and len(path) < MAX_DEPTH:
                self._held[name, statement.target or 0].add((*path, key))
            else:
                self._whole.add(path)

    def _follow_call(self, name: str, statement: Statement) -> None:
        called = self._plan.functions.get(statement.function)
        if statement.function == "object.get" and isinstance(statement.operands[1], str):
            self._follow_dot(name, statement)
            self._pass_on(name, statement.operands[2], (name, statement.target or 0))
            return
        if called is None:
            from reconciler.policy.builtins import ALLOWED, OPERATORS

            if statement.function not in ALLOWED.keys() | OPERATORS:
                self.obstacles.add(f"it calls {statement.function}, which may answer differently each time")
            self._use(name, statement.operands)
            return
        if statement.function not in self._reached:
            self._reach(statement.function, called.body)
        for given, parameter in zip(statement.operands, called.parameters, strict=True):
            self._pass_on(name, given, (statement.function, parameter))
        if statement.target is not None:
            self._held[name, statement.target] |= self._held[statement.function, called.result]

    def _pass_on(self, name: str, operand: Operand, to: _Local) -> None:
        if isinstance(operand, int):
            self._consumed.add((name, operand))
            self._held[to] |= self._held[name, operand]

    def _use(self, name: str, operands: Sequence[Operand]) -> None:
        for operand in operands:
            if isinstance(operand, int):
                self._consumed.add((name, operand))
                self._whole |= self._held[name, operand]


def _find_repeated(body: Sequence[Statement]) -> set[int]:
    """The locals that may be set more than once in one call."""
    seen: set[int] = set()
    repeated: set[int] = set()
    for statement, is_loop in _walk(body, is_loop=False):
        if statement.name == "AssignVarOnceStmt" and statement.target is not None:
            (repeated if is_loop or statement.target in seen else seen).add(statement.target)
    return repeated


def _walk(body: Sequence[Statement], *, is_loop: bool) -> Iterator[tuple[Statement, bool]]:
    for statement in body:
        yield statement, is_loop
        for block in statement.blocks:
            yield from _walk(block, is_loop=is_loop or statement.name == "ScanStmt")
