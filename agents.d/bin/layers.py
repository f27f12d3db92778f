"""The import graph of a Python package: who imports whom, in circles or against the layers.

Sources come in, a graph and findings go out. Pure. The layers are those that import-linter reads in
`pyproject.toml`.
"""

import ast
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import between modules. `eager` means that it runs when the importer is imported."""

    importer: str
    imported: str
    file: str
    line: int
    eager: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """An import against the layers, and the rule that it breaks, in words."""

    edge: Import
    rule: str


def name_modules(paths: Iterable[str]) -> dict[str, str]:
    """Module name by path, for the packages at the top: folders with an `__init__.py`."""
    python = [p for p in paths if p.endswith(".py")]
    packages = {p.partition("/")[0] for p in python if p.count("/") == 1 and p.endswith("/__init__.py")}
    return {
        p: p.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for p in python
        if p.partition("/")[0] in packages and "/" in p
    }


def read_imports(path: str, source: str, modules: Mapping[str, str]) -> list[Import]:
    """The imports of one file that lead to a known module. Raises SyntaxError."""
    names = frozenset(modules.values())
    importer = modules[path]
    package = importer if path.endswith("/__init__.py") else importer.rpartition(".")[0]
    out = []
    for node, eager in _import_nodes(ast.parse(source)):
        for target in _targets(node, package):
            imported = _nearest(target, names)
            if imported and imported != importer:
                edge = Import(importer=importer, imported=imported, file=path, line=node.lineno, eager=eager)
                out.append(edge)
    return out


def find_cycles(imports: Iterable[Import]) -> list[list[str]]:
    """The shortest circle in each group of modules that import each other eagerly."""
    graph: dict[str, set[str]] = {}
    for edge in imports:
        if edge.eager:
            graph.setdefault(edge.importer, set()).add(edge.imported)
    reach = {module: _reachable(module, graph) for module in graph}
    groups = {
        frozenset(other for other in reach[module] if module in reach.get(other, ()))
        for module in graph
        if module in reach[module]
    }
    return sorted(_circle(min(group), graph) for group in groups)


def find_violations(imports: Iterable[Import], layers: Sequence[str], ignored: Sequence[str] = ()) -> list[Violation]:
    """Imports of a higher layer, or between independent parts of one.

    `layers` is highest first; `a | b` are independent parts of one layer, `a : b` are not.
    """
    rows = [[part.strip("() ") for part in row.replace(":", "|").split("|")] for row in layers]
    independent = [":" not in row for row in layers]
    level = {part: number for number, row in enumerate(rows) for part in row}
    out = []
    for edge in imports:
        if any(fnmatchcase(f"{edge.importer} -> {edge.imported}", pattern) for pattern in ignored):
            continue
        upper, lower = _layer_of(edge.imported, level), _layer_of(edge.importer, level)
        if upper is None or lower is None or upper == lower:
            continue
        if level[upper] < level[lower]:
            out.append(Violation(edge=edge, rule=f"{lower} is below {upper}"))
        elif level[upper] == level[lower] and independent[level[upper]]:
            out.append(Violation(edge=edge, rule=f"{lower} and {upper} are independent"))
    return out


def _import_nodes(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    waiting: list[tuple[ast.AST, bool]] = [(tree, True)]
    while waiting:
        node, eager = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, eager
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            eager = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend((child, False) for child in node.body)
            waiting.extend((child, eager) for child in node.orelse)
        else:
            waiting.extend((child, eager) for child in ast.iter_child_nodes(node))


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        parent = ".".join(parts[: len(parts) - node.level + 1])
        base = f"{parent}.{base}" if base else parent
    return [f"{base}.{alias.name}" for alias in node.names]


def _nearest(target: str, names: frozenset[str]) -> str | None:
    """`pkg.mod.Class` is the module `pkg.mod`."""
    while target and target not in names:
        target = target.rpartition(".")[0]
    return target or None


def _reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting.extend(graph.get(module, ()))
    return seen


def _circle(start: str, graph: Mapping[str, set[str]]) -> list[str]:
    paths = deque([[start]])
    seen: set[str] = set()
    while paths:
        path = paths.popleft()
        for following in sorted(graph.get(path[-1], ())):
            if following == start:
                return [*path, start]
            if following not in seen:
                seen.add(following)
                paths.append([*path, following])
    return [start]


def _layer_of(module: str, level: Mapping[str, int]) -> str | None:
    while module and module not in level:
        module = module.rpartition(".")[0]
    return module or None
