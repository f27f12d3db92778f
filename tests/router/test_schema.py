"""Envelopes and payloads, over the real thing, and the schemas that a configuration may bring."""

import pytest

from reconciler.router.config import RefusedError
from reconciler.router.schema import compile_schemas
from tests.router.fleet import Fleet

REVIEW = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"files": {"type": "array", "items": {"type": "string"}}, "a/b": {"type": "integer"}},
    "required": ["files"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"a","id":"b","type":"t","pattern":"event","to":"reviewer"}',
        b'{"id":"a","type":"t","pattern":"event","to":"reviewer","payload":NaN}',
        b'{"id":"a","type":"t","pattern":"event","to":"reviewer","payload":' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"id":"a","type":"t","pattern":"event","to":"reviewer","payload":"\xff"}',
        b'{"id":"a","type":"t","pattern":"event","to":"reviewer","unknown":1}',
        b'{"id":"a","type":"t"',
        b"",
    ],
)
def test_a_malformed_message_is_a_400_with_a_row_and_without_its_body(fleet: Fleet, body: bytes) -> None:
    writer = fleet.register("writer-0")
    reply = writer.call("POST", "/api/hub/messages", body)
    assert (reply.status, reply.code, reply.body["step"]) == (400, "invalid_envelope", "schema")
    (row,) = fleet.rows("code='invalid_envelope' AND size IS NOT NULL")
    assert (row["instance"], row["size"], row["payload"], row["verdict"]) == ("writer-0", len(body), None, "deny")


def test_a_payload_that_breaks_its_schema_is_told_where(fleet: Fleet) -> None:
    fleet.configure(schemas={"review.note": REVIEW})
    writer = fleet.register("writer-0")
    reply = writer.send("review.note", to="reviewer", payload={"files": ["ok", 7], "a/b": "secret"})
    assert (reply.status, reply.code) == (422, "invalid_payload")
    assert "/files/1: " in reply.body["reason"]
    assert "/a~1b: " in reply.body["reason"]
    assert "secret" not in reply.body["reason"]
    (row,) = fleet.rows("code='invalid_payload' AND size IS NOT NULL")
    assert (row["type"], row["recipient"], row["reason"]) == ("review.note", "reviewer", reply.body["reason"])


def test_a_payload_that_conforms_passes_and_other_types_are_free(fleet: Fleet) -> None:
    fleet.configure(schemas={"review.note": REVIEW})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    assert writer.send("review.note", to="reviewer", payload={"files": []}).status == 202
    assert writer.send("review.request", to="reviewer", payload="anything").status == 202
    assert len(reviewer.receive()) == 2


def test_the_hubs_own_types_have_schemas_that_no_repository_can_widen(fleet: Fleet) -> None:
    fleet.configure(schemas={"task.completed": True})
    writer = fleet.register("writer-0")
    reply = writer.send("task.completed", to="hub", payload={"task": "t", "run": "r"})
    assert reply.code == "invalid_payload"
    assert "generation" in reply.body["reason"]


@pytest.mark.parametrize(
    ("type_", "pattern", "code"),
    [
        ("agent.hello", "event", "invalid_envelope"),
        ("task.started", "request", "invalid_envelope"),
        ("task.assigned", "event", "forbidden"),
        ("delegation.request", "event", "invalid_envelope"),
        ("my.own", "event", "forbidden"),
    ],
)
def test_the_hub_takes_its_own_types_in_their_pattern_only(fleet: Fleet, type_: str, pattern: str, code: str) -> None:
    assert fleet.register("writer-0").send(type_, pattern, to="hub", payload={}).code == code


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/x.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/nowhere"},
        {"type": "nothing"},
        {"pattern": "(?=lookahead)"},
        {"pattern": "("},
        "object",
        7,
    ],
)
def test_a_schema_that_is_none_is_refused_by_type(schema: object) -> None:
    with pytest.raises(RefusedError, match=r"schemas: my\.type: "):
        compile_schemas({"my.type": schema})


def test_a_pattern_is_matched_in_linear_time() -> None:
    validator = compile_schemas({"my.type": {"pattern": "^(a+)+$"}})["my.type"]
    assert not validator.is_valid("a" * 50_000 + "!")
