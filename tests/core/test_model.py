"""Models of what people wrote: unknown keys, types, and the normal form that is digested."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from reconciler.core.model import JsonValue, Line, Model, Text
from reconciler.core.quantity import NORMALISED, Duration


class Inner(Model):
    first_output: Duration = 60.0


class Example(Model):
    some_text: Text = ""
    one_line: Line = "x"
    input: dict[str, JsonValue] = Field(default_factory=dict)
    inner: Inner = Inner()


def refusal(value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Example.model_validate(value)
    (error,) = caught.value.errors()
    return str(error["msg"])


def test_keys_are_camel_case_and_unknown_ones_are_refused() -> None:
    assert Example.model_validate({"someText": "a"}).some_text == "a"
    assert "Extra inputs" in refusal({"some_text": "a"})
    assert "Extra inputs" in refusal({"other": 1})


@pytest.mark.parametrize("value", [1, 1.5, True])
def test_a_number_is_not_taken_for_text(value: object) -> None:
    assert "not text; put it in quotes" in refusal({"someText": value})


@pytest.mark.parametrize("value", ["a\nb", "a\x1bb", "a\x7fb"])
def test_a_line_has_no_control_characters(value: str) -> None:
    assert "control character or a line break" in refusal({"oneLine": value})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "NaN and infinity are not JSON values"),
        (float("-inf"), "NaN and infinity are not JSON values"),
        (2**53 + 1, "write it as text in quotes"),
        (-(10**400), "write it as text in quotes"),
        ({1: "a"}, "key 1 is not text; put it in quotes"),
        ({"a": {None: 1}}, "key None is not text"),
        (b"bytes", "put it in quotes to make it text"),
        ({1, 2}, "put it in quotes to make it text"),
    ],
)
def test_what_json_cannot_carry_is_refused(value: object, said: str) -> None:
    assert said in refusal({"input": {"x": value}})


def test_deep_json_is_refused() -> None:
    value: object = 1
    for _ in range(40):
        value = [value]
    assert "nested deeper than 32 levels" in refusal({"input": {"x": value}})


def test_only_what_was_written_is_digested() -> None:
    assert Example.model_validate({}).written() == {}
    assert Example.model_validate({"inner": {"firstOutput": "1m"}}).written() == {"inner": {"firstOutput": 60.0}}
    same = Example.model_validate({"inner": {"firstOutput": "60s"}})
    assert Example.model_validate({"inner": {"firstOutput": "1m"}}).digest() == same.digest()
    assert Example.model_validate({}).digest() != same.digest()


@given(st.dictionaries(st.text(max_size=3), st.integers(-(2**53), 2**53) | st.text(max_size=5) | st.none(), max_size=3))
def test_the_normal_form_is_read_back_as_the_same_value(value: dict[str, object]) -> None:
    model = Example.model_validate({"input": value, "inner": {"firstOutput": "90s"}})
    again = Example.model_validate(model.written(), context=NORMALISED)
    assert again == model
    assert again.digest() == model.digest()
