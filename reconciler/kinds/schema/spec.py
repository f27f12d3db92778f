"""Payload schemas: one JSON Schema 2020-12 per message type, from `schemas/messages/<type>.schema.json`. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.core.digest import digest
from reconciler.core.names import check_dotted
from reconciler.core.problem import Problem, sort_problems
from reconciler.kinds.manifest import Loaded
from reconciler.kinds.tree import Tree
from reconciler.settings import HubSpec

SUFFIX = ".schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSchema:
    """The schema of one message type."""

    name: str
    schema: Mapping[str, Any]
    digest: str
    file: str


def load(tree: Tree, hub: HubSpec) -> Loaded[Any]:
    """All message schemas of a snapshot. Raises SourceError."""
    parsed, problems = tree.parse(f"{hub.paths.schemas}/messages", SUFFIX, "schema", parse_schema)
    by_name = {s.name: s for s in parsed.values() if isinstance(s, MessageSchema)}
    faults = [p for result in parsed.values() if not isinstance(result, MessageSchema) for p in result]
    return Loaded(by_name=by_name, problems=sort_problems([*problems, *faults]))


def parse_schema(file: str, content: bytes) -> MessageSchema | Sequence[Problem]:
    """One file: the schema, or what is wrong with it."""
    name = file.rpartition("/")[2].removesuffix(SUFFIX)
    try:
        check_dotted(name)
        value = json.loads(content, object_pairs_hook=_unique)
        content_digest = digest(value)
    except json.JSONDecodeError as exc:
        return [Problem(file=file, line=exc.lineno, column=exc.colno, message=f"is not valid JSON: {exc.msg}")]
    except (ValueError, RecursionError) as exc:
        return [Problem(file=file, message=f"is not a message schema: {exc}")]
    if not isinstance(value, dict):
        return [Problem(file=file, line=1, column=1, message="a schema is a JSON object")]
    faults = [Problem(file=file, line=_line_of(content, word), column=1, message=m) for word, m in _faults(value)]
    return faults or MessageSchema(name=name, schema=value, digest=content_digest, file=file)


def _faults(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    import jsonschema_rs

    if schema.get("$schema", DIALECT) != DIALECT:
        yield "$schema", f"$schema is {schema['$schema']!r}; only {DIALECT!r} is read"
        return
    for depth, key, value in _walk(schema, 0):
        if depth > MAX_DEPTH:
            yield key, f"is nested deeper than {MAX_DEPTH} levels; flatten it"
            return
        if key in ("$ref", "$dynamicRef") and isinstance(value, str) and not value.startswith("#"):
            yield value, f"{key} {value!r} leaves the file; only references within it ('#/…') are followed"
            return
    try:
        jsonschema_rs.Draft202012Validator(dict(schema))
    except (ValueError, jsonschema_rs.ValidationError) as exc:
        yield "", f"is not a JSON Schema 2020-12: {str(exc).splitlines()[0]}"


def _walk(value: object, depth: int) -> Iterator[tuple[int, str, object]]:
    stack: list[tuple[int, object]] = [(depth, value)]
    while stack:
        level, node = stack.pop()
        if isinstance(node, dict):
            for key, child in node.items():
                yield level, key, child
                stack.append((level + 1, child))
        elif isinstance(node, list):
            stack.extend((level + 1, child) for child in node)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} stands twice in one object")
    return out


def _line_of(content: bytes, word: str) -> int:
    index = content.find(word.encode()) if word else -1
    return content[:index].count(b"\n") + 1 if index >= 0 else 1
