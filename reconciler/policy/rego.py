"""Rego through regopy (rego-cpp), the one home of that library; runs only in the worker process.

Modules and data come in and are compiled once; JSON values come in and go out as plain Python values. Everything
that can take for ever, take all memory or crash the process happens here.

Three habits of the library are kept from callers. Strings live in it as they are written in JSON, escapes and all, so
they are escaped on the way in and unescaped on the way out; without that a quote in an input would change the
structure of the answer. Answers are read node by node, not as text, for the same reason. And an error may come as an
answer that calls itself good.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from regopy import Interpreter, NodeKind, RegoError
from regopy.rego_shared import rego as _c
from regopy.rego_shared import rego_node_value

MAX_DEPTH = 64
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Value:
    """An answer. Sets come as sorted lists in `value`; `term` is the same in Rego, where asked for."""

    value: Any
    term: str = ""


@dataclass(frozen=True, slots=True)
class Undefined:
    """No rule had an answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The evaluation failed. `code` is the library's, such as `eval_conflict_error`."""

    message: str
    code: str


Answer = Value | Undefined | Fault


class NotAskableError(ValueError):
    """The question has a value that the engine would read as another one."""


class CompileError(ValueError):
    """The modules do not compile; the message is the library's."""


def warm_up() -> None:
    """Read the time zones now, because a confined worker can open no files."""
    Interpreter().query('time.clock([0, "Europe/Berlin"])')


def parse(path: str, source: str) -> str:
    """What is wrong with the syntax of one module in the library's words; empty if nothing is."""
    try:
        Interpreter().add_module(path, source)
    except RegoError as exc:
        return str(exc) or "cannot be parsed"
    return ""


class Program:
    """Compiled modules and data. Entry points are paths such as `hub/answer/message`."""

    def __init__(self, modules: Mapping[str, str], data: Mapping[str, Any], entry_points: Sequence[str]) -> None:
        """Compile. Raises CompileError."""
        self._interpreter = Interpreter()
        self._interpreter.strict_built_in_errors = True
        try:
            for path, source in modules.items():
                self._interpreter.add_module(path, source)
            self._interpreter.add_data_json(json.dumps(data, ensure_ascii=False, allow_nan=False))
            self._bundle = self._interpreter.build(None, entry_points)
        except RegoError as exc:
            raise CompileError(str(exc)) from exc
        if not self._bundle._impl or not self._bundle.ok():
            raise CompileError(self._compile_message())

    def ask(self, entry_point: str, question: object, *, as_term: bool = False) -> Answer:
        """Evaluate one entry point; `as_term` fills the term of a value.

        Raises NotAskableError, and MemoryError, which should end the process: the library may be in any state.
        """
        handle = self._interpreter._impl
        given = _c.regoNewInput()
        try:
            _add(given, question, 0)
            _c.regoSetInput(handle, given)
        finally:
            _c.regoFreeInput(given)
        output = _c.regoBundleQueryEntrypoint(handle, self._bundle._impl, entry_point.encode())
        if not output:
            return Fault(f"{entry_point} cannot be evaluated", "no_output")
        try:
            return _read_answer(_c.regoOutputNode(output), as_term)
        finally:
            _c.regoFreeOutput(output)

    def _compile_message(self) -> str:
        if not self._bundle._impl:
            return "cannot be compiled"
        return _find(_c.regoBundleNode(self._bundle._impl), NodeKind.ErrorMessage) or "cannot be compiled"


def _add(given: Any, value: object, depth: int) -> None:
    """Push a value onto the library's input stack. Raises NotAskableError."""
    if isinstance(value, str):
        _c.regoInputString(given, _escape(value))
    elif isinstance(value, bool):
        _c.regoInputBoolean(given, value)
    elif value is None:
        _c.regoInputNull(given)
    elif isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise NotAskableError("a number is larger than 64 bits")
        _c.regoInputInt(given, value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise NotAskableError("a number is not finite")
        _c.regoInputFloat(given, value)
    elif depth >= MAX_DEPTH:
        raise NotAskableError(f"it is nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, dict):
        for key, item in value.items():
            _c.regoInputString(given, _escape(key))
            _add(given, item, depth + 1)
            _c.regoInputObjectItem(given)
        _c.regoInputObject(given, len(value))
    elif isinstance(value, list):
        for item in value:
            _add(given, item, depth + 1)
        _c.regoInputArray(given, len(value))
    else:
        raise NotAskableError(f"{type(value).__name__} is no JSON value")


def _escape(text: str) -> bytes:
    try:
        return encode_basestring(text)[1:-1].encode()
    except UnicodeEncodeError as exc:
        raise NotAskableError("a text has half of a character (a lone surrogate)") from exc


def _string(node: Any) -> str:
    """The text of a string node, escaped as in JSON; the library gives some with their quotes, some without."""
    text = str(rego_node_value(node))
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text


def _read_answer(node: Any, as_term: bool) -> Answer:
    kind = _c.regoNodeType(node)
    if kind == NodeKind.Undefined:
        return Undefined()
    if kind != NodeKind.Results:
        message = _find(node, NodeKind.ErrorMessage) or "the evaluation failed"
        if "bad_alloc" in message:
            raise MemoryError("evaluating Rego")
        return Fault(message, _find(node, NodeKind.ErrorCode))
    terms = _child(_child(node, 0), 0)
    if _c.regoNodeSize(terms) != 1:
        return Undefined()
    try:
        value = _child(terms, 0)
        return Value(_read(value), _write_term(value) if as_term else "")
    except ValueError as exc:
        return Fault(str(exc), "unreadable")


def _child(node: Any, index: int) -> Any:
    return _c.regoNodeGet(node, index)


def _children(node: Any) -> Iterator[Any]:
    return (_child(node, index) for index in range(_c.regoNodeSize(node)))


def _read(node: Any) -> Any:
    """The value of a node. Raises ValueError where it is none."""
    match _c.regoNodeType(node):
        case NodeKind.String:
            return _unescape(_string(node))
        case NodeKind.True_:
            return True
        case NodeKind.False_:
            return False
        case NodeKind.Null:
            return None
        case NodeKind.Int:
            return int(rego_node_value(node))
        case NodeKind.Float:
            return float(rego_node_value(node))
        case NodeKind.Array:
            return [_read(item) for item in _children(node)]
        case NodeKind.Set:
            return sorted((_read(item) for item in _children(node)), key=repr)
        case NodeKind.Object:
            pairs = ((_read(_child(i, 0)), _read(_child(i, 1))) for i in _children(node))
            return {key if isinstance(key, str) else json.dumps(key): item for key, item in pairs}
        case NodeKind.Term | NodeKind.Scalar:
            return _read(_child(node, 0))
        case other:
            raise ValueError(f"the answer has a node of kind {other}, which is no value")


def _write_term(node: Any) -> str:
    """The value of a node, which `_read` could read, as Rego text."""
    match _c.regoNodeType(node):
        case NodeKind.String:
            return encode_basestring(_unescape(_string(node)))
        case NodeKind.True_:
            return "true"
        case NodeKind.False_:
            return "false"
        case NodeKind.Null:
            return "null"
        case NodeKind.Array:
            return f"[{', '.join(_write_term(item) for item in _children(node))}]"
        case NodeKind.Set:
            items = ", ".join(_write_term(item) for item in _children(node))
            return f"{{{items}}}" if items else "set()"
        case NodeKind.Object:
            pairs = ((_child(item, 0), _child(item, 1)) for item in _children(node))
            return f"{{{', '.join(f'{_write_term(k)}: {_write_term(v)}' for k, v in pairs)}}}"
        case NodeKind.Term | NodeKind.Scalar:
            return _write_term(_child(node, 0))
    return str(rego_node_value(node))


def _find(node: Any, kind: int) -> str:
    """The text of the first node of a kind."""
    if _c.regoNodeType(node) == kind:
        return str(rego_node_value(node))
    return next((text for child in _children(node) if (text := _find(child, kind))), "")
