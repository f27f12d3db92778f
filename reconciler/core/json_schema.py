"""JSON Schemas that people write, 2020-12: bytes come in, a schema or all that is wrong with it goes out. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from reconciler.core.acceptance import PATTERN_BYTES
from reconciler.core.problem import Problem
from reconciler.core.yaml import load_documents, locate

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_DEPTH = 64

_Path: TypeAlias = tuple[str | int, ...]
_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels; flatten it"
_NO_JSON = "has a value that JSON cannot carry (NaN, infinity, a number without end, half of a character); change it"
_NO_TYPE = "is no type; expected array, boolean, integer, null, number, object or string"


def parse_json_schema(file: str, content: bytes, *, linear: bool = False) -> Mapping[str, Any] | Sequence[Problem]:
    """One file. With `linear`, patterns are those of an engine whose time grows with the text only."""
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except json.JSONDecodeError as exc:
        return [Problem(file=file, line=exc.lineno, column=exc.colno, message=f"is not valid JSON: {exc.msg}")]
    except UnicodeDecodeError:
        return load_documents(content, file).problems
    except _TwiceError as exc:
        found = [p for p in load_documents(content, file).problems if "duplicate key" in p.message]
        return found or [Problem(file=file, message=str(exc))]
    except RecursionError:
        return [Problem(file=file, message=_TOO_DEEP)]
    except ValueError:
        return [Problem(file=file, message=_NO_JSON)]
    if not isinstance(value, dict):
        return [Problem(file=file, line=1, column=1, message="a schema is a JSON object")]
    return [_problem_at(file, content, path, message) for path, message in _faults(value, linear=linear)] or value


def check_pattern(pattern: str) -> None:
    """Whether it is a pattern of the engine without backtracking. Raises ValueError."""
    import jsonschema_rs

    try:
        jsonschema_rs.Draft202012Validator(
            {"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES)
        )
    except ValueError as exc:
        raise ValueError(
            f"{pattern[:60]!r} is no regular expression here; look-around and back-references are not known"
        ) from exc


def _faults(schema: Mapping[str, Any], *, linear: bool) -> Iterator[tuple[_Path, str]]:
    """What is wrong, and at which path."""
    import jsonschema_rs

    if schema.get("$schema", DIALECT) != DIALECT:
        yield ("$schema",), f"$schema is {schema['$schema']!r}; only {DIALECT!r} is read"
        return
    for path, value in _walk(schema):
        if len(path) > MAX_DEPTH:
            yield (), _TOO_DEEP
            return
        if path[-1] in ("$ref", "$dynamicRef") and isinstance(value, str) and not value.startswith("#"):
            yield path, f"{path[-1]} {value!r} leaves the file; only references within it ('#/…') are followed"
            return
    try:
        options = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES) if linear else None
        jsonschema_rs.Draft202012Validator(dict(schema), pattern_options=options)
    except jsonschema_rs.ValidationError as exc:
        path = tuple(exc.instance_path)
        wrong = _NO_TYPE if path[-1:] == ("type",) and isinstance(exc.instance, str) else exc.message
        yield path, f"is not a JSON Schema 2020-12: {'.'.join(map(str, path)) or 'the schema'}: {wrong}"
    except ValueError as exc:
        yield (), f"is not a JSON Schema 2020-12: {str(exc).splitlines()[0]}"


def _walk(schema: Mapping[str, Any]) -> Iterator[tuple[_Path, object]]:
    """Every value with its path, in no particular order."""
    stack: list[tuple[_Path, object]] = [((), schema)]
    while stack:
        path, node = stack.pop()
        if path:
            yield path, node
        if isinstance(node, dict):
            stack.extend(((*path, key), child) for key, child in node.items())
        elif isinstance(node, list):
            stack.extend(((*path, index), child) for index, child in enumerate(node))


class _TwiceError(ValueError):
    """A key stands twice in one object."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise _TwiceError(f"key {twice!r} stands twice in one object; keep one of them")
    return out


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number in JSON")


def _problem_at(file: str, content: bytes, path: _Path, message: str) -> Problem:
    """At the place of `path`, found by reading the file as the YAML that nearly all JSON is; else at its beginning."""
    is_yaml = not load_documents(content, file).problems
    line, column = locate(content, 0, path) if is_yaml else (1, 1)
    return Problem(file=file, line=line, column=column, message=message)
