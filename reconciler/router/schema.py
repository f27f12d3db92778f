"""Step 3: the envelope, then the payload against the JSON Schema (2020-12) of its type.

Schemas of the fleet's types come with the configuration; the hub's own types have theirs (`own_schemas.py`). No remote
reference is followed, patterns run in linear time, and no value of a payload gets into a reason.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Protocol

import jsonschema_rs

from reconciler.router import trace
from reconciler.router.config import RefusedError
from reconciler.router.message import HUB, Deny, Message
from reconciler.router.own_schemas import own_schemas

_SHOWN_ERRORS = 5
_MAX_REASON = 1000
_MAX_IN_MEMORY_BYTES = 128 * 1024


class Validator(Protocol):
    """What `jsonschema_rs` compiles a schema to."""

    def is_valid(self, instance: Any) -> bool: ...
    def iter_errors(self, instance: Any) -> Any: ...


HUB_PATTERN_BY_TYPE: Final[Mapping[str, str]] = {
    "agent.hello": "request",
    "agent.heartbeat": "event",
    "task.started": "event",
    "task.progress": "event",
    "task.completed": "event",
    "task.failed": "event",
    "security.alert": "event",
    "capability.query": "request",
    "delegation.request": "request",
}
HUB_IN_MEMORY: Final = frozenset({"agent.hello", "agent.heartbeat", "capability.query"})
"""What is not for hub_inbox: the router itself answers, or keeps it in memory; a repeated one is answered again."""


def compile_schemas(schemas: Mapping[str, object]) -> Mapping[str, Validator]:
    """Validators by message type; the hub's own stand for themselves. Raises RefusedError that names the type."""
    return {**{type_: _compile(type_, schema) for type_, schema in schemas.items()}, **_compile_own()}


@cache
def _compile_own() -> Mapping[str, Validator]:
    return {type_: _compile(type_, schema) for type_, schema in own_schemas().items()}


REPORTS = frozenset({"task.completed", "task.failed"})
"""What carries results and artefacts, and may be larger than a message (`max_report_bytes`, seen before reading)."""


def check_size(message: Message, size_bytes: int, max_body_bytes: int) -> Deny | None:
    """Deny a message that is larger than one may be, unless it reports of a task."""
    if size_bytes <= max_body_bytes or message.envelope.type in REPORTS:
        return None
    reason = f"a message has at most {max_body_bytes} bytes, this one has {size_bytes}"
    return Deny(code="too_large", step="schema", reason=reason)


def check(validators: Mapping[str, Validator], message: Message) -> Deny | None:
    """None for a well-formed message with a payload that conforms to the schema of its type, if it has one."""
    envelope = message.envelope
    if envelope.to == HUB and (denied := _check_for_hub(message)) is not None:
        return denied
    if envelope.traceparent is not None or envelope.tracestate is not None:
        wrong = trace.check(envelope.traceparent, envelope.tracestate)
        if wrong is not None:
            return Deny(code="invalid_envelope", step="schema", reason=wrong)
    return check_payload(validators, envelope.type, message.payload)


def check_payload(validators: Mapping[str, Validator], type_: str, payload: Any) -> Deny | None:
    """None for a payload that conforms to the schema of its type, if it has one."""
    validator = validators.get(type_)
    if validator is None or validator.is_valid(payload):
        return None
    return Deny(code="invalid_payload", step="schema", reason=_explain(validator, payload))


def _check_for_hub(message: Message) -> Deny | None:
    envelope = message.envelope
    wanted = HUB_PATTERN_BY_TYPE.get(envelope.type)
    if envelope.type in HUB_IN_MEMORY and message.size_bytes > _MAX_IN_MEMORY_BYTES:
        reason = f"{envelope.type} has at most {_MAX_IN_MEMORY_BYTES} bytes"
        return Deny(code="too_large", step="schema", reason=reason)
    if envelope.pattern in (wanted, "reply"):
        return None
    if wanted is None:
        return Deny(
            code="forbidden",
            step="schema",
            reason=f"the hub does not take messages of type {envelope.type}",
        )
    reason = f"{envelope.type} is sent to the hub as pattern {wanted}"
    return Deny(code="invalid_envelope", step="schema", reason=reason)


def _compile(type_: str, schema: object) -> Validator:
    if not isinstance(schema, dict | bool):
        raise RefusedError(f"schemas: {type_}: a schema is an object")
    try:
        return jsonschema_rs.Draft202012Validator(
            schema, mask="the value", offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        path = "".join(f"/{step}" for step in getattr(error, "instance_path", ()))
        message = getattr(error, "message", None) or str(error)
        raise RefusedError(f"schemas: {type_}: {path or '/'}: {message}") from error


def _explain(validator: Validator, payload: object) -> str:
    found: list[str] = []
    for error in validator.iter_errors(payload):
        if len(found) == _SHOWN_ERRORS:
            found.append("…")
            break
        pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in error.instance_path)
        found.append(f"{pointer or '(payload)'}: {error.message}")
    return "; ".join(found)[:_MAX_REASON]
