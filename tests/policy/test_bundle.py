"""Files and data to a bundle, or to problems with their places."""

import pytest

from reconciler.policy.bundle import (
    MAX_DATA_VALUES,
    MAX_MODULE_BYTES,
    MAX_MODULES,
    answered_kinds,
    build_bundle,
    find_tests,
)
from tests.policy.example import bundle_of, example_bundle, module


def said(files: dict[str, bytes], data: object = None) -> list[str]:
    return [str(problem) for problem in build_bundle(files, data).problems]


def of_data(data: object) -> list[str]:
    return [p.removeprefix("policies/data.yaml: ") for p in said({}, data)]


def test_a_bundle_carries_its_own_name_in_its_data() -> None:
    bundle = bundle_of({"a.rego": module("x := 1")}, {"limits": {"a": 1}})
    assert bundle.data == {"limits": {"a": 1}, "hub": {"revision": bundle.digest}}
    assert bundle.modules == {"a.rego": module("x := 1")}


def test_the_name_follows_the_content_and_nothing_else() -> None:
    first = bundle_of({"a.rego": module("x := 1"), "b.rego": module("y := 1")}, {"a": 1, "b": 2})
    same = bundle_of({"b.rego": module("y := 1"), "a.rego": module("x := 1")}, {"b": 2, "a": 1})
    other_text = bundle_of({"a.rego": module("x := 2"), "b.rego": module("y := 1")}, {"a": 1, "b": 2})
    other_data = bundle_of({"a.rego": module("x := 1"), "b.rego": module("y := 1")}, {"a": 1, "b": 3})
    assert first.digest == same.digest
    assert len({first.digest, other_text.digest, other_data.digest}) == 3


def test_no_policies_at_all_are_fine_and_answer_nothing() -> None:
    built = build_bundle({})
    assert built.bundle is not None
    assert answered_kinds(built.bundle.modules) == frozenset()


def test_kinds_are_answered_by_a_decision_in_their_package_and_not_by_tests() -> None:
    modules = {
        "a.rego": module("decision := 1", "hub.message"),
        "b.rego": module("decisions := 1", "hub.task"),
        "c_test.rego": module("decision := 1", "hub.admission"),
        "d.rego": module("default decision := {}", "hub.delegation"),
    }
    assert answered_kinds(modules) == {"message", "delegation"}
    assert answered_kinds({"a.rego": module("decision.allow := true")}) == {"message"}
    assert answered_kinds({"a.rego": module("decision(x) := x")}) == frozenset()
    assert answered_kinds(example_bundle().modules) == {"message", "task", "delegation", "admission", "llm"}


def unasked(**modules: tuple[str, str]) -> list[str]:
    """What is said of modules, given by file as package and body; the bundle itself is well."""
    built = build_bundle({f"{name}.rego": module(body, package).encode() for name, (package, body) in modules.items()})
    assert (built.problems, built.bundle is None) == ((), False)
    return [str(problem) for problem in built.unasked]


NO_DECISION = "package hub.message has no rule 'decision', so that built-in rules would answer instead"


@pytest.mark.parametrize(
    ("body", "place", "advice"),
    [
        ('decison := {"allow": true}', "3:1", "rename decison, if this is meant to be it"),
        ("x := 1\ndefault Decision := {}", "4:9", "rename Decision, if this is meant to be it"),
        ("allow := true", "1:1", "define it, or name a library hub.lib.message"),
        ("decision(x) := x", "3:1", "this is a function, make it a rule without arguments"),
    ],
)
def test_an_entry_point_without_a_decision_is_named_where_it_was_probably_meant(
    body: str, place: str, advice: str
) -> None:
    assert unasked(m=("hub.message", body)) == [f"m.rego:{place}: {NO_DECISION}; {advice}"]


def test_one_module_of_an_entry_point_decides_for_all_of_them() -> None:
    helpers = {"a": ("hub.message", "decisions := 1"), "b": ("hub.message.grants", "x := 1")}
    assert unasked(**helpers, c=("hub.message", "decision := {}")) == []
    assert unasked(**helpers, c_test=("hub.message", "decision := {}")) == [
        f"a.rego:3:1: {NO_DECISION}; rename decisions, if this is meant to be it"
    ]
    assert unasked(a=("hub.message.decision", "allow := true"))[0].startswith(f"a.rego:1:1: {NO_DECISION}")


def test_a_package_that_no_question_goes_to_is_named() -> None:
    rest = (
        "questions go to hub.message, hub.task, hub.delegation, hub.admission, hub.llm, "
        "and libraries are below hub.lib or outside of hub"
    )
    assert unasked(a=("hub.mesage", "decision := {}"), b=("hub.other", "x := 1")) == [
        f"a.rego:1:1: package hub.mesage is never asked; did you mean hub.message? {rest}",
        f"b.rego:1:1: package hub.other is never asked; {rest}",
    ]


def test_libraries_and_tests_need_no_decision() -> None:
    assert unasked(a=("hub.lib", "x := 1"), b=("hub.lib.time", "x := 1"), c=("lib.message", "decison := 1")) == []
    assert unasked(message_test=("hub.message_test", "test_x if true")) == []


def test_bytes_that_are_no_text_are_a_problem_at_their_place() -> None:
    assert said({"a.rego": b'package a\nx := "\xff"'}) == ["a.rego:2:7: is not UTF-8 text; save the file as UTF-8"]
    assert said({"a.rego": b"package a\n\0"}) == ["a.rego:2:1: contains a NUL character; remove it"]


def test_a_module_names_a_package_of_its_own_and_imports_rego_v1() -> None:
    assert said({"a.rego": b""}) == ["a.rego:1:1: names no package; begin with 'package hub.message' or another name"]
    assert said({"a.rego": b"\npackage a\nx := 1"}) == [
        "a.rego:2:1: does not import rego.v1; write 'import rego.v1' below the package"
    ]
    for name in ("hub", "hub.answer", "hub.answer.x", "hub.revision"):
        text = f"package {name}\nimport rego.v1".encode()
        assert said({"a.rego": text}) == [f"a.rego:1:1: package {name} is the hub's own; choose another name"]


@pytest.mark.parametrize("file", ["a.rego", "a_test.rego"])
@pytest.mark.parametrize("name", ["system", "system.log", "system.authz.deep"])
def test_what_opa_keeps_for_itself_is_no_package(file: str, name: str) -> None:
    text = f'package {name}\nimport rego.v1\nmask contains "/input"'.encode()
    assert said({file: text}) == [
        f"{file}:1:1: package {name} is below 'system', which OPA keeps for itself; choose another name"
    ]
    assert said({file: b"package systems.log\nimport rego.v1"}) == []


def test_all_problems_of_all_files_are_reported_in_order() -> None:
    problems = said({"b.rego": module("x := print(1)\ny := trace(1)").encode(), "a.rego": b"\xff"}, {"hub": 1})
    assert [p.split(": ")[0] for p in problems] == ["a.rego:1:1", "b.rego:3:6", "b.rego:4:6", "policies/data.yaml"]


def test_with_belongs_into_tests() -> None:
    text = module("x if y with input as {}\ny := 1").encode()
    assert said({"a.rego": text}) == [
        "a.rego:3:8: uses 'with', which the embedded engine cannot evaluate outside of tests; use a function"
    ]
    assert said({"a_test.rego": text}) == []


def test_functions_of_one_name_take_as_many_arguments_everywhere() -> None:
    files = {
        "a.rego": module("f(x) := x", "a").encode(),
        "b.rego": module("f(x) := x", "b").encode(),
        "c.rego": module("\nf(x, y) := x", "c").encode(),
    }
    assert said(files) == [
        "c.rego:4:1: function f takes 2 arguments, but 1 in a.rego:3; functions of one name take as many everywhere"
    ]


def test_too_much_is_refused() -> None:
    assert "has 262145 bytes" in said({"a.rego": b"#" * (MAX_MODULE_BYTES + 1)})[0]
    many = {f"p{n:03}.rego": module("x := 1", f"p{n}").encode() for n in range(MAX_MODULES + 1)}
    assert said(many) == ["p200.rego: is one of 201 modules; there may be at most 200"]
    assert of_data({"a": list(range(MAX_DATA_VALUES))}) == [
        f"has {MAX_DATA_VALUES + 2} values; there may be at most {MAX_DATA_VALUES}"
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([1], "is not a mapping; write keys and values"),
        ({"hub": {}}, "has the key 'hub', which is the hub's own; rename it"),
        ({"system": {"log": 1}}, "has the key 'system', which OPA keeps for itself; rename it"),
        ({"a": {"b": [1e300]}}, "a.b[0] is 1e+300, which the engines do not read alike; write it as text, or smaller"),
        ({"a": 2**70}, f"a is {2**70}, which the engines do not read alike; write it as text, or smaller"),
        ({"a": float("nan")}, "a is nan, which the engines do not read alike; write it as text, or smaller"),
        ({"a": {1: 2}}, "a has the key 1, which is not text; put it in quotes"),
        ({"a": "\0"}, "a contains a character that is no text; remove it"),
        ({"a": b"x"}, "a is a bytes; put it in quotes to make it text"),
    ],
)
def test_data_that_the_engines_would_misread_is_refused(data: object, problem: str) -> None:
    assert of_data(data) == [problem]


def test_data_nested_without_end_is_refused() -> None:
    data: dict[str, object] = {}
    inner = data
    for _ in range(40):
        inner["a"] = {}
        inner = inner["a"]  # type: ignore[assignment]
    assert "nested deeper than 32" in of_data(data)[0]


def test_data_does_not_stand_where_a_package_is() -> None:
    files = {"a.rego": module("x := 1", "lib.limits").encode()}
    assert said(files, {"lib": {"limits": {"y": 1}}}) == [
        "policies/data.yaml: has a value where package lib.limits is; rename one of them"
    ]
    assert said(files, {"lib": {"other": 1}}) == []


def test_tests_are_found_with_their_places_in_test_files_only() -> None:
    modules = {
        "a.rego": module("test_not_here := true"),
        "a_test.rego": module("\ntest_b if true\ntest_a if true\nhelper := 1\ntest_f(x) := x", "hub.a_test"),
    }
    assert [(t.path, t.name, t.line) for t in find_tests(modules)] == [
        ("hub/a_test/test_b", "test_b", 4),
        ("hub/a_test/test_a", "test_a", 5),
    ]
