"""Message schemas: what is refused, and where it stands in the file."""

import json

import pytest

from reconciler.kinds.schema.spec import DIALECT, MessageSchema, parse_schema
from tests.fakes.desired import desired_of, problems_of

FILE = "schemas/messages/docs.published.schema.json"


def said_of(text: str | bytes, file: str = FILE) -> list[str]:
    parsed = parse_schema(file, text.encode() if isinstance(text, str) else text)
    return [] if isinstance(parsed, MessageSchema) else [str(p) for p in parsed]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type": }', "1:10: is not valid JSON: Expecting value"),
        ('{\n  "a": 1,\n}', "3:1: is not valid JSON: "),
        ("", "1:1: is not valid JSON: Expecting value"),
        ("[]", "1:1: a schema is a JSON object"),
        ("true", "1:1: a schema is a JSON object"),
        ('{"type": "objekt"}', '1:1: is not a JSON Schema 2020-12: "objekt" is not valid'),
        ('{\n"properties": 7}', "1:1: is not a JSON Schema 2020-12: 7 is not of type"),
        ('{"$schema": "http://json-schema.org/draft-07/schema#"}', "1:1: $schema is 'http://json-schema.org/draft-07/"),
        (
            '{\n "x": {"$ref": "https://example.org/a.json"}}',
            "2:1: $ref 'https://example.org/a.json' leaves the file; on",
        ),
        ('{\n"$ref": "other.schema.json"}', "2:1: $ref 'other.schema.json' leaves the file"),
        ('{\n"$ref": "file:///etc/passwd"}', "2:1: $ref 'file:///etc/passwd' leaves the file"),
        ('{"pattern": "("}', "1:1: is not a JSON Schema 2020-12: "),
    ],
)
def test_a_schema_that_is_none_says_where_and_what(text: str, said: str) -> None:
    (problem,) = said_of(text)
    assert problem.startswith(f"{FILE}:{said}")


def test_a_key_that_stands_twice_is_refused() -> None:
    (problem,) = said_of('{"type": "object", "type": "string"}')
    assert problem == f"{FILE}: is not a message schema: key 'type' stands twice in one object"


@pytest.mark.parametrize("content", [b'{"a": "\xe9"}', b'{"const": "\\ud800"}'])
def test_text_that_is_no_unicode_is_refused(content: bytes) -> None:
    (problem,) = said_of(content)
    assert problem.startswith(f"{FILE}: is not a message schema: ")


def test_a_schema_nested_without_end_is_refused() -> None:
    for depth in (70, 3000, 200_000):
        (problem,) = said_of('{"items":' * depth + "{}" + "}" * depth)
        assert "nested deeper than 64 levels" in problem or "recursion" in problem


def test_a_number_that_json_has_not_is_refused() -> None:
    for text in ('{"minimum": NaN}', '{"minimum": Infinity}', '{"const": 1e999}'):
        (problem,) = said_of(text)
        assert problem.startswith(f"{FILE}: is not a message schema: ")


def test_the_file_is_named_after_a_message_type() -> None:
    (problem,) = said_of("{}", "schemas/messages/Docs Published.schema.json")
    assert "'Docs Published' is not a dotted name" in problem


def test_references_within_the_file_are_followed() -> None:
    text = json.dumps({"$schema": DIALECT, "$defs": {"x": {"type": "string"}}, "$ref": "#/$defs/x"})
    assert said_of(text) == []


def test_schemas_reach_the_router_by_message_type() -> None:
    files = {
        FILE: '{"type": "object"}',
        "schemas/hub.schema.json": "not read",
        "schemas/messages/README.md": "nor this",
    }
    assert desired_of(files).route["schemas"] == {"docs.published": {"type": "object"}}


def test_a_broken_schema_breaks_the_revision() -> None:
    assert problems_of({FILE: "{"})[0].startswith(f"{FILE}:1:2: is not valid JSON")
