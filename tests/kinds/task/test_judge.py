"""The checks that the hub makes by itself: right, and never for longer or with more memory than they are given."""

import json
import time
from collections.abc import Mapping
from typing import Any

from reconciler.kinds.task.judge import judge


def test_a_result_is_held_against_schema_and_pattern() -> None:
    checks: list[Mapping[str, Any]] = [{"schema": {"required": ["title"]}}, {"regex": '"n":\\d'}, {"regex": "(?m)^# "}]
    assert judge({"n": 1}, checks) == [
        '"title" is a required property',
        "",
        "the result has nothing that matches (?m)^# ",
    ]
    assert judge("intro\n# Title", checks[2:]) == [""]


def test_every_place_that_is_wrong_is_named_up_to_a_bound() -> None:
    schema = {"properties": {"a": {"items": {"type": "integer"}}}}
    (wrong,) = judge({"a": list("abcdefgh")}, [{"schema": schema}])
    assert wrong.startswith('a.0: "a" is not of type "integer"; a.1: ')
    assert wrong.endswith("; and more")


def test_a_schema_that_takes_for_ever_is_cut_off() -> None:
    doubled = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n - 1}"}] * 2} for n in range(1, 60)}
    schema = {"$defs": {"a0": {"type": "string"}, **doubled}, "$ref": "#/$defs/a59"}
    began = time.monotonic()
    assert judge("x", [{"schema": schema}], deadline_s=1.0) == ["it took longer than 1s to check"]
    assert time.monotonic() - began < 20


def test_a_pattern_that_other_engines_backtrack_in_is_quick() -> None:
    assert judge("a" * 100_000, [{"regex": "^(a+)+$"}]) == [""]
    assert judge("a" * 100_000 + "b", [{"regex": "^(a+)+$"}]) != [""]


def test_a_result_that_nests_without_end_is_no_way_to_end_the_hub() -> None:
    value: object = "x"
    for _ in range(900):
        value = [value]
    schema = {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}
    (wrong,) = judge(value, [{"schema": schema}])
    assert wrong in ("", "it cannot be checked: the result or the schema is too much for it")
    deep: object = json.loads("[" * 900 + "]" * 900)
    assert len(judge(deep, [{"regex": "a"}, {"regex": "b"}])) == 2
