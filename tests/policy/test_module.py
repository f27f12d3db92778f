"""The outline of a module: rules, functions, imports and calls."""

import time

from hypothesis import given
from hypothesis import strategies as st

from reconciler.policy.module import MAX_NESTING, Import, Rule, read_module

SOURCE = """package hub.message

import rego.v1
import data.hub.lib as l

default allow := false
default weight(_) := 1

deny contains sprintf("%s(", [name]) if {
	some name in input.names
	contains(name, "http.send(")
	l.is_long(name, [1, 2], {"a": (3)})
}

weight(name, rest) := 2 if
	startswith(name, "a")
test_it if allow with input as {"a": 1}
"""


def calls(source: str) -> list[tuple[str, int | None, bool]]:
    references = read_module("p.rego", source).references
    return [(r.name, r.arity, r.dynamic) for r in references if r.arity is not None]


def test_package_imports_and_rules_have_their_places() -> None:
    module = read_module("p.rego", SOURCE)
    assert (module.package, module.line) == ("hub.message", 1)
    assert module.imports == (
        Import(path="rego.v1", alias="v1", line=3, column=1),
        Import(path="data.hub.lib", alias="l", line=4, column=1),
    )
    assert module.rules == (
        Rule(name="allow", line=6, column=9),
        Rule(name="weight", line=7, column=9, arity=1),
        Rule(name="deny", line=9, column=1),
        Rule(name="weight", line=15, column=1, arity=2),
        Rule(name="test_it", line=17, column=1),
    )
    assert [token.line for token in module.withs] == [17]


def test_calls_have_names_and_numbers_of_arguments() -> None:
    assert calls(SOURCE) == [
        ("sprintf", 2, False),
        ("contains", 2, False),
        ("l.is_long", 3, False),
        ("startswith", 2, False),
    ]


def test_brackets_with_a_string_and_blanks_do_not_hide_a_name() -> None:
    assert calls('package p\nx := time["now_ns"]()') == [("time.now_ns", 0, False)]
    assert calls("package p\nx := time[`now_ns`]()") == [("time.now_ns", 0, False)]
    assert calls("package p\nx := time . # now\n now_ns\n ()") == [("time.now_ns", 0, False)]


def test_a_callee_that_cannot_be_told_is_dynamic() -> None:
    assert calls("package p\nx := y[z](1)") == [("y", 1, True)]
    assert calls("package p\nx := f(1)(2)") == [("f", 1, False), ("", 0, True)]


def test_a_trailing_comma_is_no_argument() -> None:
    assert calls("package p\nx := concat(\n\t1,\n\t2,\n)") == [("concat", 2, False)]


def test_a_call_on_a_line_of_its_own_in_a_body_is_no_rule() -> None:
    module = read_module("p.rego", "package p\nx if\nopa.runtime()\ny :=\nrand.intn(1)\nz if not\nf(1)")
    assert [rule.name for rule in module.rules] == ["x", "y", "z"]
    assert [r.name for r in module.references if r.arity is not None] == ["opa.runtime", "rand.intn", "f"]


def test_deep_nesting_is_a_problem() -> None:
    module = read_module("p.rego", "package p\nx := " + "[" * (MAX_NESTING + 1))
    assert [p.line for p in module.problems] == [2]


def test_a_long_module_is_read_in_linear_time() -> None:
    started = time.process_time()
    read_module("p.rego", "package p\n" + "x := f(a, [b(c), d]) if { e(f) }\n" * 5000)
    assert time.process_time() - started < 5


@given(st.text(alphabet='ab "`\\#\n.,()[]{}:=1', max_size=200) | st.text(max_size=100))
def test_no_text_breaks_it(source: str) -> None:
    read_module("p.rego", source)
