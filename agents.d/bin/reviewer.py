"""The reviewer: is the code layered as declared, short enough to read, and free of open ends?

Operations: `layers`, `long`, `todo`. All read the files of the workspace; `long` also reads which files it was asked to
review, and raises a finding for each file that is too long.
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from layers import Import, find_cycles, find_violations, name_modules, read_imports
from repository import WorkError, list_files, read_text
from work import Result, Task, count, mailbox, perform, progress, raise_finding

MAX_FINDINGS_SENT = 20

_MARKERS = r"\b(TODO|FIXME|XXX|HACK)\b(?:\(([^)]*)\))?"
_IN_COMMENT = re.compile(_MARKERS + r":?\s*(.*)")
_COMMENT_START = {
    "#": re.compile(r"(?:^|\s)#(.*)"),
    "//": re.compile(r"(?:^|\s)//(.*)"),
    "--": re.compile(r"(?:^|\s)--\s(.*)"),
    "<!--": re.compile(r"<!--(.*)"),
}
_COMMENT_BY_SUFFIX = {
    **dict.fromkeys((".rego", ".yaml", ".yml", ".toml", ".sh", ".cfg", ""), "#"),
    **dict.fromkeys((".js", ".ts", ".go", ".rs", ".c", ".css"), "//"),
    **dict.fromkeys((".md", ".html"), "<!--"),
    ".sql": "--",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function with its length in lines, decorators not counted."""

    path: str
    line: int
    name: str
    lines: int


def layers(task: Task, *, settings: str = "pyproject.toml") -> Result:
    """Circles of imports, and imports against the layers that `settings` gives import-linter."""
    modules = name_modules(list_files(task.workspace))
    progress(f"reading the imports of {count(len(modules), 'module')}")
    imports, unreadable = _read_all_imports(task, modules)
    cycles = find_cycles(imports)
    contracts = _read_contracts(task, settings)
    checked = [c for c in contracts if c.get("type") == "layers" and "containers" not in c]
    violations = [
        violation
        for contract in checked
        for violation in find_violations(imports, contract["layers"], contract.get("ignore_imports", ()))
    ]
    used = Counter(imported for imported, _ in {(e.imported, e.importer) for e in imports})
    return {
        "ok": not cycles and not violations and not unreadable,
        "summary": f"{count(len(modules), 'module')}, {count(len(cycles), 'import circle')}, "
        f"{count(len(violations), 'import')} against the layers",
        "figures": {
            "modules": len(modules),
            "imports": len({(e.importer, e.imported) for e in imports}),
            "cycles": len(cycles),
            "violations": len(violations),
        },
        "cycles": cycles,
        "violations": [
            {"importer": v.edge.importer, "imported": v.edge.imported, "rule": v.rule}
            | {"file": v.edge.file, "line": v.edge.line}
            for v in violations
        ],
        "most_imported": [{"module": name, "by": times} for name, times in used.most_common(10)],
        "contracts_checked": [str(c.get("name", "")) for c in checked],
        "contracts_not_checked": [str(c.get("name", "")) for c in contracts if c not in checked],
        "unreadable": unreadable,
    }


def long(
    task: Task, *, function_lines: int = 50, file_lines: int = 400, top: int = 10, paths: tuple[str, ...] = ()
) -> Result:
    """Python functions and files past a length, the `top` longest, and the usual length; of `paths` only, if given.

    Others may have asked for a review of some files by message: how long these are. Who gave `paths` is told by the
    result alone.
    """
    functions: list[Function] = []
    files: list[tuple[int, str]] = []
    unreadable: list[Result] = []
    for path, source in _python(task):
        if paths and path not in paths:
            continue
        files.append((len(source.splitlines()), path))
        try:
            functions.extend(_functions(path, ast.parse(source)))
        except SyntaxError as exc:
            unreadable.append(_unreadable(path, exc))
    progress(f"measured {count(len(functions), 'function')} in {count(len(files), 'file')}")
    functions.sort(key=lambda f: (-f.lines, f.path, f.line))
    files.sort(key=lambda item: (-item[0], item[1]))
    long_functions = [f for f in functions if f.lines > function_lines]
    long_files = [(lines, path) for lines, path in files if lines > file_lines]
    with nullcontext([]) if paths else mailbox() as heard:
        asked = sorted({p for m in heard if m["type"] == "review.request" for p in m["payload"]["paths"]})
    return {
        "ok": not long_functions and not long_files and not unreadable,
        "summary": f"{count(len(long_functions), 'function')} over {function_lines} lines, "
        f"{count(len(long_files), 'file')} over {file_lines}",
        "figures": {
            "functions": len(functions),
            "median_function": _percentile([f.lines for f in functions], 50),
            "p95_function": _percentile([f.lines for f in functions], 95),
            "median_file": _percentile([lines for lines, _ in files], 50),
            "long_functions": len(long_functions),
            "long_files": len(long_files),
        },
        "functions": [
            {
                "path": f.path,
                "line": f.line,
                "name": f.name,
                "lines": f.lines,
                "over": f.lines > function_lines,
            }
            for f in functions[: max(top, len(long_functions))]
        ],
        "files": [
            {"path": path, "lines": lines, "over": lines > file_lines}
            for lines, path in files[: max(top, len(long_files))]
        ],
        "asked_for": [{"path": path, "lines": lines} for lines, path in files if path in asked],
        "unreadable": unreadable,
        "messages": [
            raise_finding(task, "length", path, 1, f"it has {lines} lines, more than {file_lines}")
            for lines, path in (() if paths else long_files[:MAX_FINDINGS_SENT])
        ],
    }


def todo(task: Task, *, top: int = 200) -> Result:
    """Open ends that comments admit to; without an owner, as in `TODO(ada): ...`, it is not ok."""
    found: list[Result] = []
    paths = list_files(task.workspace)
    progress(f"reading the comments of {count(len(paths), 'file')}")
    for path in paths:
        text = read_text(task.workspace, path)
        for line, comment in _comments(path, text or ""):
            if match := _IN_COMMENT.search(comment):
                marker, owner, said = match.groups()
                found.append(
                    {
                        "path": path,
                        "line": line,
                        "marker": marker,
                        "owner": owner,
                        "text": said.strip()[:200],
                    }
                )
    unowned = sum(not row["owner"] for row in found)
    by_marker = Counter(str(row["marker"]) for row in found)
    return {
        "ok": unowned == 0,
        "summary": f"{count(len(found), 'open end')}, {unowned} without an owner",
        "figures": {"found": len(found), "unowned": unowned},
        "by_marker": dict(sorted(by_marker.items())),
        "found": found[:top],
    }


def _read_all_imports(task: Task, modules: dict[str, str]) -> tuple[list[Import], list[Result]]:
    imports: list[Import] = []
    unreadable: list[Result] = []
    for path in modules:
        try:
            imports.extend(read_imports(path, read_text(task.workspace, path) or "", modules))
        except SyntaxError as exc:
            unreadable.append(_unreadable(path, exc))
    return imports, unreadable


def _read_contracts(task: Task, settings: str) -> list[dict[str, Any]]:
    if settings not in list_files(task.workspace):
        return []
    try:
        document = tomllib.loads(read_text(task.workspace, settings) or "")
    except tomllib.TOMLDecodeError as exc:
        raise WorkError(f"{settings} is not TOML: {exc}") from exc
    contracts: list[dict[str, Any]] = document.get("tool", {}).get("importlinter", {}).get("contracts", [])
    return contracts


def _python(task: Task) -> Iterator[tuple[str, str]]:
    for path in list_files(task.workspace):
        if path.endswith(".py") and (source := read_text(task.workspace, path)) is not None:
            yield path, source


def _functions(path: str, tree: ast.Module) -> Iterator[Function]:
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, scope = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}" if scope else node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(path=path, line=node.lineno, name=scope, lines=lines)
        waiting.extend((child, scope) for child in ast.iter_child_nodes(node))


def _comments(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and texts of comments: exact for Python, else by the sign that starts one."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".py":
        yield from _python_comments(text)
    elif start := _COMMENT_BY_SUFFIX.get(suffix):
        pattern = _COMMENT_START[start]
        for number, line in enumerate(text.splitlines(), start=1):
            if match := pattern.search(line):
                yield number, match[1]


def _python_comments(source: str) -> Iterator[tuple[int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    except (SyntaxError, tokenize.TokenError):
        return


def _unreadable(path: str, exc: SyntaxError) -> Result:
    return {"file": path, "line": exc.lineno or 0, "message": exc.msg}


def _percentile(values: Sequence[int], percent: int) -> int:
    """The smallest value that at least `percent` of them do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0


if __name__ == "__main__":
    sys.exit(perform({"layers": layers, "long": long, "todo": todo}))
