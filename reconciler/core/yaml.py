"""YAML 1.2 with positions: bytes in, plain JSON-like values or problems out.

libyaml (through ruamel.yaml) gives the events; values are built from them here, because building them through
ruamel.yaml's nodes takes four times as long, turns dates into objects, and must expand aliases before they can be
counted. Plain scalars follow the core schema of YAML 1.2; dates stay text; `<<` merges mappings as everywhere.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ruamel.yaml.cyaml import CParser  # type: ignore[attr-defined]
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, DocumentStartEvent, MappingStartEvent, ScalarEvent, SequenceStartEvent
from ruamel.yaml.reader import ReaderError

from reconciler.core.problem import Problem

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 100_000

Path: TypeAlias = tuple[str | int, ...]

_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((f"{sign}{inf}" for sign in ("", "+") for inf in (".inf", ".Inf", ".INF")), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,4000}")
_OTHER_BASE = re.compile(r"0o[0-7]{1,1000}|0x[0-9a-fA-F]{1,1000}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NUMBER_START = frozenset("0123456789+-.")
_TAG_PREFIX = "tag:yaml.org,2002:"


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
        return Documents(values=tuple(_Reader(text, marks=None).documents()))
    except _RefusedError as exc:
        return _refuse(file, exc.message, exc.line, exc.column)
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        return _refuse(file, _explain(exc, text, line), line, column)
    except ReaderError as exc:
        line, column = _line_column(content, exc.position)
        return _refuse(
            file, f"contains the character U+{exc.character:04X}, which YAML forbids; remove it", line, column
        )
    except YAMLError as exc:
        return _refuse(file, f"cannot be read as YAML: {(str(exc).splitlines() or ['unreadable'])[0][:200]}")


def locate(content: bytes, document: int, path: Sequence[str | int]) -> tuple[int, int]:
    """Line and column (from 1) of `path` in a file that `load_documents` accepted.

    Parts that lead nowhere are passed over, so that the nearest enclosing position is found.
    """
    marks: dict[Path, tuple[int, int]] = {}
    for _ in _Reader(content.decode("utf-8"), marks=marks).documents():
        pass
    found: Path = (document,)
    for part in path:
        if (*found, part) in marks:
            found = (*found, part)
    return marks.get(found, (1, 1))


class _RefusedError(Exception):
    def __init__(self, message: str, event: Any) -> None:
        super().__init__(message)
        self.message = message
        self.line = event.start_mark.line + 1
        self.column = event.start_mark.column + 1


class _Reader:
    """Values from the events of one text. With `marks`, positions by path (document number first) are noted."""

    def __init__(self, text: str, marks: dict[Path, tuple[int, int]] | None) -> None:
        self._parser: Any = CParser(text)
        self._marks = marks
        self._nodes = 0
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._open: set[str] = set()

    def documents(self) -> Iterator[Any]:
        parser = self._parser
        number = 0
        while parser.check_event():
            if isinstance(parser.get_event(), DocumentStartEvent):
                self._anchors, self._nodes = {}, 0
                yield self._value(parser.get_event(), (number,), 0)
                number += 1

    def _value(self, event: Any, path: Path, depth: int) -> Any:
        self._note(path, event)
        self._count(1, event)
        if isinstance(event, ScalarEvent):
            return self._named(event, _scalar(event), 1)
        if isinstance(event, AliasEvent):
            return self._alias(event)
        if depth >= MAX_DEPTH:
            raise _RefusedError(f"is nested deeper than {MAX_DEPTH} levels; flatten it", event)
        if event.tag not in (None, "!", f"{_TAG_PREFIX}map", f"{_TAG_PREFIX}seq"):
            raise _RefusedError(f"has the tag {event.tag!r}; only plain YAML values are allowed", event)
        before = self._nodes
        if event.anchor:
            self._open.add(event.anchor)
        if isinstance(event, SequenceStartEvent):
            value: Any = self._sequence(path, depth)
        elif isinstance(event, MappingStartEvent):
            value = self._mapping(path, depth)
        else:
            raise _RefusedError("is not valid YAML", event)
        self._open.discard(event.anchor)
        return self._named(event, value, self._nodes - before + 1)

    def _named(self, event: Any, value: Any, size: int) -> Any:
        if event.anchor:
            self._anchors[event.anchor] = (value, size)
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor in self._open:
            raise _RefusedError(f"alias *{event.anchor} stands inside its own anchor; write the value out", event)
        if event.anchor not in self._anchors:
            raise _RefusedError(f"alias *{event.anchor} has no anchor &{event.anchor} before it", event)
        value, size = self._anchors[event.anchor]
        self._count(size, event)
        return value

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            how = "expands through its anchors to" if self._anchors else "has"
            raise _RefusedError(f"{how} more than {MAX_NODES} values; use fewer", event)

    def _sequence(self, path: Path, depth: int) -> list[Any]:
        out: list[Any] = []
        parser = self._parser
        while isinstance(
            event := parser.get_event(), ScalarEvent | AliasEvent | SequenceStartEvent | MappingStartEvent
        ):
            out.append(self._value(event, (*path, len(out)), depth + 1))
        return out

    def _mapping(self, path: Path, depth: int) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        merged: list[Any] = []
        parser = self._parser
        while isinstance(
            event := parser.get_event(), ScalarEvent | AliasEvent | SequenceStartEvent | MappingStartEvent
        ):
            key = self._value(event, (*path, "?"), depth + 1)
            if isinstance(key, list | dict):
                raise _RefusedError("a key is a list or a mapping; keys are plain words", event)
            value = self._value(parser.get_event(), (*path, str(key)), depth + 1)
            self._note((*path, str(key)), event)
            if key == "<<" and isinstance(event, ScalarEvent) and not event.style:
                merged.append((value, event))
            elif key in out:
                raise _RefusedError(f"found duplicate key {key!r}; keep one of them", event)
            else:
                out[key] = value
        for value, event in merged:
            _merge(out, value, event)
        return out

    def _note(self, path: Path, event: Any) -> None:
        if self._marks is not None:
            self._marks[path] = (event.start_mark.line + 1, event.start_mark.column + 1)


def _merge(out: dict[Any, Any], value: Any, event: Any) -> None:
    for source in value if isinstance(value, list) else [value]:
        if not isinstance(source, dict):
            raise _RefusedError("'<<' merges mappings; what follows it is something else", event)
        for key, merged in source.items():
            out.setdefault(key, merged)


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.tag is not None and event.tag != "!":
        return _tagged(event, text)
    if event.style or event.tag == "!":
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    return _number(text) if text[0] in _NUMBER_START else text


def _number(text: str) -> Any:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def _tagged(event: Any, text: str) -> Any:
    match event.tag.removeprefix(_TAG_PREFIX):
        case "str":
            return text
        case "int" | "float" if not isinstance(_number(text), str):
            return _number(text)
        case "bool" | "null" if text in _CONSTANTS:
            return _CONSTANTS[text]
        case _:
            raise _RefusedError(f"has the tag {event.tag!r}; only plain YAML values are allowed", event)


def _explain(exc: MarkedYAMLError, text: str, line: int) -> str:
    """What libyaml says, unless the indentation is the cause; of what is not closed also where it begins."""
    problem = str(exc.problem or exc.context or "cannot be read")
    lines = text.splitlines()
    for number in (n for n in (line, line - 1) if 0 < n <= len(lines)):
        first = lines[number - 1].lstrip(" ")[:1]
        if first == "\t" and number == line:
            return "a tab is used for indentation; YAML wants spaces"
        if first.isspace() and first != "\t":
            return f"line {number} is indented by U+{ord(first):04X}, which only looks like a space; use plain spaces"
    begin = exc.context_mark
    if begin is None or begin.line + 1 == line or not re.search("flow|quoted", str(exc.context)):
        return f"is not valid YAML: {problem}"
    return f"is not valid YAML: {problem}, in what begins on line {begin.line + 1}, column {begin.column + 1}"


def _line_column(content: bytes, offset: int) -> tuple[int, int]:
    before = content[:offset].decode("utf-8", "replace")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _refuse(file: str, message: str, line: int = 0, column: int = 0) -> Documents:
    return Documents(problems=(Problem(file=file, line=line, column=column, message=message),))
