"""Payload schemas: one JSON Schema 2020-12 per message type, from `schemas/messages/<type>.schema.json`. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.core.digest import digest
from reconciler.core.json_schema import parse_json_schema
from reconciler.core.message_type import is_reserved
from reconciler.core.names import check_dotted
from reconciler.core.problem import Problem, sort_problems
from reconciler.kinds.manifest import Loaded
from reconciler.kinds.tree import Tree
from reconciler.settings import HubSpec

SUFFIX = ".schema.json"

_NOT_YOURS = (
    "has no effect: types that begin with '{}.' are the hub's own, and so are their schemas; "
    "remove the file, or name it after another type"
)


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
    except ValueError as exc:
        return [Problem(file=file, message=f"is not named after a message type: {exc}")]
    if is_reserved(name):
        return [Problem(file=file, message=_NOT_YOURS.format(name.partition(".")[0]))]
    value = parse_json_schema(file, content)
    if not isinstance(value, Mapping):
        return value
    return MessageSchema(name=name, schema=value, digest=digest(value), file=file)
