"""The envelope parser: what it takes, what it refuses, and that it never does anything else."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.router.message import (
    MAX_DEPTH,
    MAX_PARTS,
    STATUS_BY_CODE,
    TITLE_BY_CODE,
    Deny,
    Message,
    parse_message,
    problem_body,
)


def envelope(**fields: object) -> dict[str, object]:
    return {"id": "m-1", "type": "review.request", "pattern": "event", "to": "reviewer", "payload": {}, **fields}


def parse(**fields: object) -> Message | Deny:
    return parse_message(json.dumps(envelope(**fields)).encode())


def refusal(body: bytes) -> str:
    parsed = parse_message(body)
    assert isinstance(parsed, Deny)
    assert (parsed.code, parsed.step) == ("invalid_envelope", "schema")
    return parsed.reason


def nested(depth: int) -> bytes:
    """An envelope whose payload makes it `depth` levels deep."""
    inner = b"[" * (depth - 1) + b"]" * (depth - 1)
    return b'{"id":"a","type":"t","pattern":"event","to":"b","payload":' + inner + b"}"


def test_a_full_envelope_is_taken_as_it_stands() -> None:
    parsed = parse(
        topic=None,
        correlation_id="c",
        ttl_s=5,
        traceparent="00-aa-bb-01",
        sensitivity="restricted",
        **{"from": "writer"},
    )
    assert isinstance(parsed, Message)
    found = parsed.envelope
    assert (found.id, found.type, found.pattern, found.to) == ("m-1", "review.request", "event", "reviewer")
    assert (found.from_, found.ttl_s, found.sensitivity) == ("writer", 5.0, "restricted")


def test_the_payload_is_the_exact_slice_of_the_body() -> None:
    parsed = parse_message(b'{"payload": {"a" : 1.0,\n"b":"\\u00e9"} ,"id":"a","type":"t","pattern":"event","to":"b"}')
    assert isinstance(parsed, Message)
    assert bytes(parsed.envelope.payload) == b'{"a" : 1.0,\n"b":"\\u00e9"}'
    assert parsed.payload == {"a": 1.0, "b": "é"}


def test_without_a_payload_it_is_null() -> None:
    parsed = parse_message(b'{"id":"a","type":"t","pattern":"event","to":"b"}')
    assert isinstance(parsed, Message)
    assert (bytes(parsed.envelope.payload), parsed.payload) == (b"null", None)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "truncated"),
        (b"[]", "one JSON object"),
        (b'"x"', "one JSON object"),
        (b'{"id":"a"} x', "trailing"),
        (b"\xef\xbb\xbf{}", "malformed"),
        (b'{"id":"\xff"}', "UTF-8"),
        (b'{"\xff":1}', "UTF-8"),
        (b'{"payload":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"payload":"\\ud800 alone"}', "malformed"),
        (b'{"payload":NaN}', "malformed"),
        (b'{"payload":Infinity}', "malformed"),
        (b'{"payload":1e999}', "range"),
        (b'{"payload":' + b"9" * 5000 + b"}", "range"),
        (b"{'id':1}", "malformed"),
        (b'{"id":"a",}', "malformed"),
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes, named: str) -> None:
    assert named in refusal(body)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":1,"a":2}',
        b'{"x":[{"a":1,"a":1}]}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":"\\u003a","a":2}',
        b'{"a":1,"a":"\\u003A:"}',
    ],
)
def test_a_key_that_stands_twice_is_refused_by_name(payload: bytes) -> None:
    body = b'{"id":"m","type":"t","pattern":"event","to":"b","payload":' + payload + b"}"
    assert "the key 'a' stands twice" in refusal(body)


def test_a_key_of_the_envelope_that_stands_twice_is_refused() -> None:
    assert "the key 'to' stands twice" in refusal(b'{"id":"m","to":"a","type":"t","pattern":"event","to":"b"}')


def test_colons_in_strings_are_no_keys() -> None:
    for text in ("a:b:c", "::", '\\": {"x":'):
        assert isinstance(parse(payload={"text": text, text: 1}), Message)
    body = b'{"id":"m","type":"t","pattern":"event","to":"b","payload":{"a":"\\u003a"}}'
    assert isinstance(parse_message(body), Message)


def test_nesting_ends_at_the_limit() -> None:
    assert isinstance(parse_message(nested(MAX_DEPTH)), Message)
    for depth in (MAX_DEPTH + 1, 500, 100_000):
        assert f"more than {MAX_DEPTH} levels" in refusal(nested(depth))


@pytest.mark.parametrize("part", [b"{}", b"[]", b"[1]", b'{"a":{}}', b"[" * 50 + b"]" * 50])
def test_more_parts_than_a_message_may_have_are_refused_before_they_are_read(part: bytes) -> None:
    def body(count: int, rest: bytes = b"") -> bytes:
        parts = b",".join([part] * (count // (part.count(b"{") + part.count(b"["))))
        return b'{"id":"m","type":"a.b","pattern":"event","to":"b","payload":[%s%s]}' % (parts, rest)

    assert isinstance(parse_message(body(MAX_PARTS - 2)), Message)
    for refused in (body(MAX_PARTS + 100), body(MAX_PARTS + 100, b",no JSON"), body(MAX_PARTS + 100, b'"\\')):
        parsed = parse_message(refused)
        assert isinstance(parsed, Deny)
        assert parsed.code == "too_large"
        assert "more than 100000 objects and lists" in parsed.reason


@pytest.mark.parametrize("text", ["{" * (2 * MAX_PARTS), '{"a": [1]}\n' * MAX_PARTS, "\\[" * (2 * MAX_PARTS)])
def test_brackets_in_texts_are_no_parts(text: str) -> None:
    envelope = {"id": "m", "type": "a.b", "pattern": "event", "to": "b", "payload": {"text": text}}
    parsed = parse_message(json.dumps(envelope).encode())
    assert isinstance(parsed, Message)
    assert parsed.payload == {"text": text}


def test_many_shallow_objects_are_not_deep() -> None:
    assert isinstance(parse(payload=[{"a": [1]}] * 1000), Message)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"extra": 1}, "extra"),
        ({"time": 1}, "time"),
        ({"seq": 1}, "seq"),
        ({"id": 7}, "$.id"),
        ({"id": ""}, "$.id"),
        ({"id": "a b"}, "$.id"),
        ({"id": "x" * 129}, "$.id"),
        ({"id": "a\n"}, "$.id"),
        ({"type": "Review Request"}, "$.type"),
        ({"type": "t\n"}, "$.type"),
        ({"pattern": "broadcast"}, "only the hub broadcasts"),
        ({"to": "../etc"}, "$.to"),
        ({"to": "a/b/c"}, "$.to"),
        ({"to": None, "topic": "docs.*"}, "$.topic"),
        ({"ttl_s": 0}, "$.ttl_s"),
        ({"ttl_s": -1}, "$.ttl_s"),
        ({"sensitivity": "secret"}, "$.sensitivity"),
        ({"traceparent": "a b"}, "$.traceparent"),
        ({"to": None}, "exactly one of to and topic"),
        ({"topic": "docs.new"}, "exactly one of to and topic"),
        ({"to": None, "topic": "docs.new", "pattern": "request"}, "use to instead of topic"),
        ({"pattern": "reply"}, "correlation_id"),
        ({"pattern": "reply", "correlation_id": "c", "to": None, "topic": "docs.new"}, "leave topic out"),
        ({"type": "task.assigned"}, "only go to the hub"),
        ({"type": "task.assigned", "to": None, "topic": "docs.new"}, "only go to the hub"),
        ({"type": "task.assigned", "to": None, "pattern": "reply", "correlation_id": "c"}, "only go to the hub"),
        ({"type": "policy.changed"}, "only go to the hub"),
    ],
)
def test_an_envelope_that_contradicts_the_contract_is_refused(fields: dict[str, Any], named: str) -> None:
    assert named in refusal(json.dumps(envelope(**fields)).encode())


def test_a_reason_never_repeats_the_payload() -> None:
    body = b'{"id":"m","type":"t","pattern":"event","to":"b","payload":{"secret-value": nope}}'
    assert "secret" not in refusal(body)


def test_each_code_has_a_status_and_a_title() -> None:
    assert STATUS_BY_CODE.keys() == TITLE_BY_CODE.keys()
    for code in STATUS_BY_CODE:
        problem = json.loads(problem_body(Deny(code=code, step="s", reason="r", retry_after_s=3), "rev"))
        assert (problem["code"], problem["status"], problem["retry_after_s"]) == (code, STATUS_BY_CODE[code], 3)
        assert problem["policy_revision"] == "rev"


# The first text that Hypothesis makes builds a table of all characters, which takes a second.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
members = st.sampled_from(
    ["id", "type", "pattern", "to", "topic", "from", "correlation_id", "ttl_s", "payload", "traceparent", "other"]
)
likely = st.sampled_from(["a", "a.b", "event", "reply", "request", "hub", "writer/writer-0", "public", 1, 0.5, None])


@patient
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_refusal(body: bytes) -> None:
    assert isinstance(parse_message(body), Message | Deny)


@patient
@given(st.dictionaries(members, likely | json_values), st.booleans())
def test_any_json_object_is_a_message_or_a_refusal(value: dict[str, object], ascii_: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    parsed = parse_message(body)
    assert isinstance(parsed, Message | Deny)
    if isinstance(parsed, Deny):
        assert parsed.code == "invalid_envelope"


@patient
@given(json_values, st.binary(max_size=3), st.integers(min_value=0), st.integers(0, 3))
def test_a_damaged_message_is_a_message_or_a_refusal(payload: object, noise: bytes, at: int, cut: int) -> None:
    body = json.dumps(envelope(payload=payload)).encode()
    at %= len(body)
    assert isinstance(parse_message(body[:at] + noise + body[at + cut :]), Message | Deny)


@patient
@given(st.lists(st.tuples(st.text(max_size=3), st.integers()), max_size=6))
def test_duplicate_keys_are_found_exactly_where_there_are_any(pairs: list[tuple[str, int]]) -> None:
    inner = ",".join(f"{json.dumps(k)}:{v}" for k, v in pairs)
    body = ('{"id":"m","type":"t","pattern":"event","to":"b","payload":{' + inner + "}}").encode()
    keys = [k for k, _ in pairs]
    if any("\ud800" <= c <= "\udfff" for k in keys for c in k):
        return
    assert isinstance(parse_message(body), Deny) == (len(keys) != len(set(keys)))
