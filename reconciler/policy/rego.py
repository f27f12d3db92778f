"""Rego through regopy (rego-cpp), the one home of that library; runs only in the worker process.

Modules and data come in and are compiled once; JSON values come in and go out as plain Python values. Everything
that can take for ever, take all memory or crash the process happens here.

Three habits of the library are kept from callers. Strings live in it as they are written in JSON, escapes and all, so
they are escaped on the way in and unescaped on the way out; without that a quote in an input would change the
structure of the answer. Answers are read node by node, not as text, for the same reason. And an error may come as an
answer that calls itself good.
"""

import ctypes
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from regopy import Interpreter, NodeKind, RegoError
from regopy.rego_shared import rego as _c
from regopy.rego_shared import rego_node_value

from reconciler.policy.reads import Function, Operand, Plan, Statement

MAX_DEPTH = 64
_INT64 = 2**63

_NAME_BYTES = 64
_STATEMENTS = {
    "rego-assignvarstmt": "AssignVarStmt",
    "rego-assignvaroncestmt": "AssignVarOnceStmt",
    "rego-calldynamicstmt": "CallDynamicStmt",
    "rego-callstmt": "CallStmt",
    "rego-dotstmt": "DotStmt",
    "rego-isdefinedstmt": "IsDefinedStmt",
    "rego-isundefinedstmt": "IsUndefinedStmt",
    "rego-resetlocalstmt": "ResetLocalStmt",
    "rego-returnlocalstmt": "ReturnLocalStmt",
    "rego-scanstmt": "ScanStmt",
    "rego-withstmt": "WithStmt",
}
"""OPA's names for the statements that `reads.py` tells apart; the others keep the library's."""

_WITH_TARGET = ("AssignVarStmt", "AssignVarOnceStmt", "CallStmt", "DotStmt")


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

    def read_plan(self) -> Plan:
        """What the entry points do, statement by statement. Raises LookupError or ValueError on an unknown form."""
        policy = _find_named(_c.regoBundleNode(self._bundle._impl), "rego-policy")
        parts = {_node_name(part): part for part in _children(policy)}
        reader = _PlanReader(_find_named(parts["rego-static"], "rego-stringseq"))
        return Plan(
            entry_points={
                _string(_child(plan, 0)): reader.read_blocks(_child(plan, 1))
                for plan in _children(parts["rego-planseq"])
            },
            functions={
                _string(_child(function, 0)): reader.read_function(function)
                for function in _children(parts["rego-functionseq"])
            },
        )

    def _compile_message(self) -> str:
        if not self._bundle._impl:
            return "cannot be compiled"
        return _find(_c.regoBundleNode(self._bundle._impl), NodeKind.ErrorMessage) or "cannot be compiled"


class _PlanReader:
    """Reads statements from the library's tree; constant texts stand in a table of its own."""

    def __init__(self, texts: Any) -> None:
        self._texts = [_unescape(_string(text)) for text in _children(texts)]

    def read_function(self, node: Any) -> Function:
        """Name, path, parameters, result, blocks."""
        parameters = tuple(_local(local) for local in _children(_child(node, 2)))
        return Function(parameters=parameters, result=_local(_child(node, 3)), body=self.read_blocks(_child(node, 4)))

    def read_blocks(self, node: Any) -> tuple[Statement, ...]:
        """The statements of all blocks of a sequence, which run one after another."""
        return tuple(statement for block in _children(node) for statement in self._read_block(block))

    def _read_block(self, node: Any) -> tuple[Statement, ...]:
        return tuple(self._read_statement(statement) for statement in _children(node))

    def _read_statement(self, node: Any) -> Statement:
        name = _node_name(node)
        name = _STATEMENTS.get(name, name)
        operands: list[Operand] = []
        blocks: list[tuple[Statement, ...]] = []
        function = ""
        for child in _children(node):
            match _node_name(child):
                case "rego-irstring":
                    function = _string(child)
                case "rego-operandseq":
                    operands.extend(self._read_operand(operand) for operand in _children(child))
                case "rego-operand":
                    operands.append(self._read_operand(child))
                case "rego-localindex":
                    operands.append(_local(child))
                case "rego-block":
                    blocks.append(self._read_block(child))
                case "rego-blockseq":
                    blocks.append(self.read_blocks(child))
        target = operands.pop() if name in _WITH_TARGET else None
        return Statement(
            name=name,
            # A loop sets its other two: key and value.
            operands=tuple(operands[:1] if name == "ScanStmt" else operands),
            target=target if isinstance(target, int) else None,
            function=function,
            blocks=tuple(blocks),
        )

    def _read_operand(self, node: Any) -> Operand:
        value = _child(node, 0)
        match _node_name(value):
            case "rego-localindex":
                return _local(value)
            case "rego-stringindex":
                return self._texts[_local(value)]
        return None


def _local(node: Any) -> int:
    return int(rego_node_value(node))


def _node_name(node: Any) -> str:
    """The library's name of a kind of node; its own function for it fails, because it counts one byte too few."""
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _c.regoNodeTypeName(node, name, _NAME_BYTES)
    return name.value.decode()


def _find_named(node: Any, name: str) -> Any:
    for child in _children(node):
        if _node_name(child) == name:
            return child
    raise LookupError(f"the plan has no {name}")


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
