"""YAML 1.2 with positions: bytes in, plain values or problems out; positions are read again only where needed.

The fast path is libyaml through ruamel.yaml. A text that could be nested or aliased without end is first walked as a
stream of events, which neither recurses nor expands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    NodeEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from reconciler.core.problem import Problem

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The values of all documents of one file, or the problems that kept it from being read."""

    values: tuple[Any, ...] = ()
    problems: tuple[Problem, ...] = ()


def load_documents(content: bytes, file: str) -> Documents:
    """Parse one file. Never raises on bad content: every fault becomes a Problem with line and column."""
    if len(content) > MAX_BYTES:
        return _refuse(file, f"has {len(content)} bytes; a manifest has at most {MAX_BYTES} (1MiB)")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line, column = _line_column(content, exc.start)
        return _refuse(file, "is not UTF-8 text; save the file as UTF-8", line, column)
    if "\0" in text:
        line, column = _line_column(content, content.index(b"\0"))
        return _refuse(file, "contains a NUL character; remove it", line, column)
    try:
        if _is_suspicious(text) and (problem := _walk(text, file)):
            return Documents(problems=(problem,))
        return Documents(values=tuple(YAML(typ="safe", pure=False).load_all(text)))
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        return _refuse(file, _explain(exc, text, line), line, column)
    except (YAMLError, ValueError, RecursionError) as exc:
        return _refuse(file, f"cannot be read as YAML: {_first_line(exc)}")


def locate(content: bytes, document: int, path: Sequence[str | int]) -> tuple[int, int]:
    """Line and column (from 1) of `path` in a file that `load_documents` accepted.

    Parts that lead nowhere are passed over, so that the nearest enclosing position is found.
    """
    reader: Any = YAML(typ="safe", pure=True)
    nodes = list(reader.compose_all(StringIO(content.decode("utf-8"))))
    if document >= len(nodes) or nodes[document] is None:
        return 1, 1
    node: Node = nodes[document]
    mark = node.start_mark
    for part in path:
        found = _child(node, part)
        if found is None:
            continue
        mark, node = found
    return mark.line + 1, mark.column + 1


def _child(node: Node, part: str | int) -> tuple[Any, Node] | None:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark, value
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark, node.value[part]
    return None


def _is_suspicious(text: str) -> bool:
    return "*" in text or text.count("[") + text.count("{") > MAX_DEPTH or "- - - -" in text or "? ? " in text


def _walk(text: str, file: str) -> Problem | None:
    """Depth and expanded size, alias by alias, without expanding anything."""
    reader: Any = YAML(typ="safe", pure=False)
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in reader.parse(text):
        if isinstance(event, DocumentStartEvent):
            sizes, open_nodes, total = {}, [], 0
        elif isinstance(event, AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                return _at(file, event, f"alias *{event.anchor} stands inside its own anchor; write the value out")
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, NodeEvent):
            total += 1
            if isinstance(event, CollectionStartEvent):
                open_nodes.append((event.anchor, total))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before + 1
        if len(open_nodes) > MAX_DEPTH:
            return _at(file, event, f"is nested deeper than {MAX_DEPTH} levels; flatten it")
        if total > MAX_NODES:
            return _at(file, event, f"expands to more than {MAX_NODES} values through its anchors; use fewer")
    return None


def _at(file: str, event: Any, message: str) -> Problem:
    return Problem(file=file, line=event.start_mark.line + 1, column=event.start_mark.column + 1, message=message)


def _explain(exc: MarkedYAMLError, text: str, line: int) -> str:
    problem = str(exc.problem or exc.context or "cannot be read")
    lines = text.splitlines()
    if 0 < line <= len(lines) and lines[line - 1].lstrip(" ").startswith("\t"):
        return "a tab is used for indentation; YAML wants spaces"
    if problem.startswith("found duplicate key"):
        return f"{problem.split(' with value')[0]}; keep one of them"
    if "constructor for the tag" in problem:
        return f"{problem}; only plain YAML values are allowed"
    return f"is not valid YAML: {problem}"


def _line_column(content: bytes, offset: int) -> tuple[int, int]:
    before = content[:offset]
    return before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]


def _refuse(file: str, message: str, line: int = 0, column: int = 0) -> Documents:
    return Documents(problems=(Problem(file=file, line=line, column=column, message=message),))
