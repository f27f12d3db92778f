"""Changes and the fields in which two specs differ."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.change import Action, Cause, Change, FieldChange, diff_fields

LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.lists(st.integers(0, 3), max_size=2)
TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | LEAVES, max_size=3),
    max_leaves=8,
)


def test_only_the_leaves_that_differ_are_named_in_path_order() -> None:
    before = {"b": {"x": 1, "y": [1]}, "a": 1, "gone": True}
    after = {"b": {"x": 2, "y": [1]}, "a": 1, "new": "n"}
    assert diff_fields(before, after) == (
        FieldChange(path="b.x", before=1, after=2),
        FieldChange(path="gone", before=True, after=None),
        FieldChange(path="new", before=None, after="n"),
    )


def test_a_mapping_that_becomes_a_value_is_one_difference() -> None:
    assert diff_fields({"a": {"b": 1}}, {"a": 2}) == (FieldChange(path="a", before={"b": 1}, after=2),)


@given(TREES)
def test_nothing_differs_from_itself(tree: dict[str, Any]) -> None:
    assert diff_fields(tree, tree) == ()


@given(TREES, TREES)
def test_the_way_back_has_the_same_paths_with_the_sides_swapped(left: dict[str, Any], right: dict[str, Any]) -> None:
    there, back = diff_fields(left, right), diff_fields(right, left)
    assert [(f.path, f.before, f.after) for f in there] == [(f.path, f.after, f.before) for f in back]


def test_a_unit_is_the_instance_where_there_is_one() -> None:
    change = Change(kind="agent", name="writer", action=Action.CREATE, reason="new")
    assert change.unit == "agent/writer"
    assert Change(kind="agent", name="writer", instance="writer-0", action=Action.KEEP, reason="").unit == (
        "agent/writer-0"
    )


def test_the_json_of_a_change_has_the_keys_of_the_contract() -> None:
    change = Change(
        kind="agent",
        name="writer",
        instance="writer-0",
        action=Action.REPLACE,
        cause=Cause.DRIFT,
        reason="image changed",
        fields=(FieldChange(path="spec.image", before="a", after="b"),),
        disruptive=True,
        spec_digest="1:0",
        spec=object(),
    )
    assert change.to_json() == {
        "kind": "agent",
        "name": "writer",
        "instance": "writer-0",
        "action": "replace",
        "cause": "drift",
        "reason": "image changed",
        "fields": [{"path": "spec.image", "before": "a", "after": "b"}],
        "disruptive": True,
        "spec_digest": "1:0",
    }
