"""Members of a JSON object: exact bytes, and no second meaning."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.members import read_members


def test_values_are_the_bytes_they_stand_in() -> None:
    members = read_members(b'{"a": {"b" : 1.0},\n"c":"\\u00e9" }')
    assert isinstance(members, dict)
    assert {name: bytes(value) for name, value in members.items()} == {"a": b'{"b" : 1.0}', "c": b'"\\u00e9"'}
    assert read_members(b"{}") == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{} x", "trailing"),
        (b'{"a":NaN}', "malformed"),
        (b'{"a\xff":1}', "UTF-8"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":1,"a":2}', "the key 'a' stands twice"),
        (b'{"a":1,"\\u0061":2}', "the key 'a' stands twice"),
        (b'{"x":[{"a":1,"b":1,"a":1}]}', "the key 'a' stands twice"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        ('{"a":1}'.encode("utf-16"), "malformed"),
    ],
)
def test_what_is_no_object_with_each_key_once_is_refused(body: bytes, said: str) -> None:
    reason = read_members(body)
    assert isinstance(reason, str)
    assert said in reason


def test_a_number_of_any_length_is_not_computed() -> None:
    assert isinstance(read_members(b'{"a":' + b"9" * 100_000 + b"}"), dict)


def test_a_reason_never_repeats_a_value() -> None:
    reason = read_members(b'{"a":"secret-value" nope}')
    assert isinstance(reason, str)
    assert "secret" not in reason


@given(st.binary(max_size=60))
def test_any_bytes_are_members_or_a_reason(body: bytes) -> None:
    assert isinstance(read_members(body), dict | str)


@given(st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text() | st.none(), max_size=5))
def test_an_object_of_unique_keys_is_read(value: dict[str, object]) -> None:
    try:
        body = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    members = read_members(body)
    assert isinstance(members, dict)
    assert {name: msgspec.json.decode(raw) for name, raw in members.items()} == value
