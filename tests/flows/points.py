"""Which crash points the sources have: read from the calls of `point` and `effect`, and nothing of the reconciler run."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "reconciler"
NO_EFFECT = frozenset({"hold", "keep"})


def find_points(computed: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Every point by name. `computed` says what becomes of a name that is an f-string, by its text in the source."""
    found: set[str] = set()
    unknown: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        if path.name == "crashpoint.py":
            continue
        for verb, name, is_computed in _calls(path):
            if is_computed and name not in computed:
                unknown.add(f"{path.relative_to(SOURCES)}: {name}")
            for each in computed[name] if is_computed and name in computed else [name]:
                found.update([f"{each}.before", f"{each}.after"] if verb == "effect" else [each])
    assert not unknown, f"say what these stand for: {sorted(unknown)}"
    return frozenset(found)


def planned_actions() -> Iterator[tuple[str, str]]:
    """Kind and action of everything that a kind can plan, and that applying then carries out."""
    for folder in sorted(p for p in (SOURCES / "kinds").iterdir() if (p / "plan.py").exists()):
        actions = {
            node.attr.lower()
            for path in folder.glob("*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Action"
        }
        yield from ((folder.name, action) for action in sorted(actions - NO_EFFECT))


def _calls(path: Path) -> Iterator[tuple[str, str, bool]]:
    """`effect` or `point`, the name that it is called with, and whether that is computed."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("effect", "point"):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield node.func.id, str(name.value), False
            else:
                yield node.func.id, ast.unparse(name), True
