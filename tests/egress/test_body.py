"""Reading a request's body: what is asked, and that the provider reads nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.egress.body import Asked, read_body
from reconciler.egress.problem import Deny

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["model", "Model", "MODEL", "stream", "Stream", "x", "max_tokens", "\u017ftream", "mode\\u006c"]
)


def pairs_to_json(pairs: list[tuple[str, Any]]) -> bytes:
    """An object in which names may stand twice."""
    members = (f'"{name}":{json.dumps(value)}' for name, value in pairs)
    return f"{{{','.join(members)}}}".encode()


def read_like_go(content: bytes) -> Any:
    """As Go's decoder does: letters' case does not matter, the last one counts."""
    found = None
    for name, value in json.loads(content, object_pairs_hook=list):
        found = value if name.casefold() == "model" else found
    return found


def read_first(content: bytes) -> Any:
    return next(value for name, value in json.loads(content, object_pairs_hook=list) if name == "model")


@given(st.lists(st.tuples(NAMES, JSON | st.sampled_from(["a", "b"])), max_size=6), st.booleans())
def test_every_reader_finds_the_model_that_was_checked(pairs: list[tuple[str, Any]], counts: bool) -> None:
    asked = read_body(pairs_to_json([*pairs, ("model", "a")]), counts_stream=counts)
    if isinstance(asked, Asked):
        assert asked.model == "a" == read_first(asked.content) == read_like_go(asked.content)


@given(st.dictionaries(st.sampled_from(["messages", "tools", "x", "y"]), JSON), st.booleans())
def test_values_go_on_as_they_are(more: dict[str, Any], is_stream: bool) -> None:
    body = {"model": "a", "stream": is_stream, **more}
    asked = read_body(json.dumps(body).encode())
    assert isinstance(asked, Asked)
    assert (json.loads(asked.content), asked.is_stream) == (body, is_stream)


def test_spelling_of_values_is_kept_to_the_byte() -> None:
    body = b'{"model":"a","messages":[ {"n": 1.50e3, "t":"\\u00e9\\/"} ]}'
    assert read_body(body) == Asked("a", False, len(body) // 4, body)


def test_a_stream_of_openais_api_is_asked_for_its_usage() -> None:
    asked = read_body(b'{"model":"a","stream":true,"stream_options":{"x":1,"include_usage":false}}', counts_stream=True)
    assert isinstance(asked, Asked)
    assert json.loads(asked.content)["stream_options"] == {"x": 1, "include_usage": True}
    for options in ("null", "[1]", "5"):
        body = f'{{"model":"a","stream":true,"stream_options":{options}}}'.encode()
        asked = read_body(body, counts_stream=True)
        assert isinstance(asked, Asked)
        assert json.loads(asked.content)["stream_options"] == {"include_usage": True}
    plain = read_body(b'{"model":"a"}', counts_stream=True)
    assert isinstance(plain, Asked)
    assert "stream_options" not in json.loads(plain.content)


def test_the_estimate_counts_what_is_sent_and_the_most_that_may_come() -> None:
    asked = read_body(b'{"model":"a","max_tokens":1000}')
    assert isinstance(asked, Asked)
    assert asked.tokens == 1007
    negative = read_body(b'{"model":"a","max_tokens":-1000}')
    assert isinstance(negative, Asked)
    assert negative.tokens > 0


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    found = read_body(body)
    assert isinstance(found, Deny) or found.model is not None


@pytest.mark.parametrize("body", [b'{"model":null}', b'{"model":["a"]}', b'{"model":"a","stream":"yes"}', b'"a"'])
def test_what_is_of_another_type_is_refused(body: bytes) -> None:
    assert isinstance(read_body(body), Deny)
