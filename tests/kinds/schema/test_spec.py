"""Message schemas: what is refused, and where it stands in the file."""

import json

import pytest

from reconciler.core.json_schema import DIALECT
from reconciler.kinds.schema.spec import MessageSchema, parse_schema
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
        (
            '{\n "type": "object",\n "properties": {\n\t"a": {"type": "strng"}}}',
            "4:8: is not a JSON Schema 2020-12: properties.a.type: is no type; expected array, boolean, integer, null, ",
        ),
        ('{\n"properties": 7}', "2:1: is not a JSON Schema 2020-12: properties: 7 is not of type"),
        ('{"$ref": "#/$defs/x"}', "1:1: is not a JSON Schema 2020-12: the schema: Pointer '/$defs/x' does not exist"),
        ('{"$schema": "http://json-schema.org/draft-07/schema#"}', "1:2: $schema is 'http://json-schema.org/draft-07/"),
        (
            '{\n "x": {"$ref": "https://example.org/a.json"}}',
            "2:8: $ref 'https://example.org/a.json' leaves the file; on",
        ),
        ('{\n"$ref": "other.schema.json"}', "2:1: $ref 'other.schema.json' leaves the file"),
        ('{\n"$ref": "file:///etc/passwd"}', "2:1: $ref 'file:///etc/passwd' leaves the file"),
        ('{"a": "\\ud83d\\ude00",\n"pattern": "("}', "1:1: is not a JSON Schema 2020-12: pattern: "),
        ('{\n"type": "object",\n"type": "string"}', "3:1: found duplicate key 'type'; keep one of them"),
        (b'{\n"a": "\xe9"}', "2:7: is not UTF-8 text; save the file as UTF-8"),
        ('{"type": "object"}'.encode("utf-16"), "1:1: is not UTF-8 text; save the file as UTF-8"),
        (b'{\n"a": "\0"}', "2:7: is not valid JSON: Invalid control character at"),
    ],
)
def test_a_schema_that_is_none_says_where_and_what(text: str | bytes, said: str) -> None:
    (problem,) = said_of(text)
    assert problem.startswith(f"{FILE}:{said}")


def test_a_key_that_stands_twice_is_refused_in_json_that_is_no_yaml() -> None:
    (problem,) = said_of('{"x": "\\ud83d\\ude00", "type": "object", "type": "string"}')
    assert problem == f"{FILE}: key 'type' stands twice in one object; keep one of them"


@pytest.mark.parametrize(
    "text",
    [
        '{"const": "\\ud800"}',
        '{"minimum": NaN}',
        '{"minimum": Infinity}',
        '{"const": 1e999}',
        f'{{"const": {"1" * 5000}}}',
    ],
)
def test_a_value_that_json_has_not_is_refused(text: str) -> None:
    assert said_of(text) == [
        f"{FILE}: has a value that JSON cannot carry (NaN, infinity, a number without end, half of a character); "
        "change it"
    ]


def test_a_schema_nested_without_end_is_refused() -> None:
    for depth in (70, 3000, 200_000):
        (problem,) = said_of('{"items":' * depth + "{}" + "}" * depth)
        assert problem.endswith("is nested deeper than 64 levels; flatten it")


def test_the_file_is_named_after_a_message_type() -> None:
    (problem,) = said_of("{}", "schemas/messages/Docs Published.schema.json")
    assert problem.startswith(
        "schemas/messages/Docs Published.schema.json: is not named after a message type: 'Docs Pu"
    )


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


@pytest.mark.parametrize("name", ["task.completed", "agent.hello.reply", "hub.flood", "security.alert"])
def test_a_schema_of_a_type_of_the_hubs_own_is_told_to_have_no_effect(name: str) -> None:
    file = f"schemas/messages/{name}.schema.json"
    assert problems_of({file: "{}"}) == [
        f"{file}: has no effect: types that begin with '{name.partition('.')[0]}.' are the hub's own, "
        "and so are their schemas; remove the file, or name it after another type"
    ]
    assert problems_of({f"schemas/messages/my.{name}.schema.json": "{}"}) == []
