"""Digests: equal values are equal, whatever their order; other values are not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.digest import canonical_json, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert digest(value) == digest(turned)


@given(JSON, JSON)
def test_different_json_has_different_digests(left: Any, right: Any) -> None:
    assert (canonical_json(left) == canonical_json(right)) == (digest(left) == digest(right))


def test_the_form_is_fixed_so_that_a_release_cannot_change_it_unnoticed() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ä"}) == '{"a":"ä","b":[1,2.5,null,true]}'.encode()
    assert digest({"a": 1}) == "1:015abd7f5cc57a2dd94b7590f04ad808"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(value)
    with pytest.raises(TypeError):
        digest({"a": object()})
