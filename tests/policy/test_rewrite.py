"""Tests without `with`: what is asked instead, what stays, and what cannot be done."""

import pytest

from reconciler.policy.rewrite import Rewritten, rewrite_module
from tests.policy.example import module


def rewrite(body: str) -> Rewritten:
    return rewrite_module("m_test.rego", module(body, "hub.m_test"), 7)


def body_of(rewritten: Rewritten) -> str:
    return rewritten.text.removeprefix(module("", "hub.m_test").removesuffix("\n")).removesuffix("\n")


def test_a_module_without_with_stays_as_it_is() -> None:
    assert body_of(rewrite("test_a if true")) == "test_a if true"


def test_an_expression_becomes_a_value_and_a_question() -> None:
    rewritten = rewrite("test_a if data.hub.m.x == 1 with input as {\n\t1}\ntest_b := 1")
    assert body_of(rewritten) == "test_a if data.hub.m_test.hub_with_7\n\ntest_b := 1"
    (found,) = rewritten.withs
    assert (found.value, found.input, found.data) == ("hub/m_test/hub_with_7", "hub/m_test/hub_input_7", ())
    assert found.rules == (
        "hub_with_7 := hub_value if {\n\thub_value := data.hub.m.x == 1\n}\n"
        "hub_input_7 := hub_value if {\n\thub_value := {\n\t1}\n}\n"
    )
    assert (found.rule.name, found.rule.line) == ("test_a", 3)


def test_negations_and_assignments_stay_in_front() -> None:
    rewritten = rewrite("test_a if {\n\tnot p with input as q\n\td := r with input as s; d.ok\n}")
    assert body_of(rewritten) == (
        "test_a if {\n\tnot data.hub.m_test.hub_with_7\n\td := data.hub.m_test.hub_with_8; d.ok\n}"
    )


def test_data_is_replaced_by_its_path_and_lines_are_kept() -> None:
    rewritten = rewrite("test_a if {\n\tp\n\t\twith data.a.b as 1\n\t\twith input as q\n\tr\n}")
    assert body_of(rewritten) == "test_a if {\n\tdata.hub.m_test.hub_with_7\n\n\n\tr\n}"
    assert rewritten.withs[0].data == (("a.b", "hub/m_test/hub_data_7_0"),)
    assert rewritten.withs[0].input == "hub/m_test/hub_input_7"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("test_a if {\n\tx := 1\n\tp with input as {1: x}\n}", "5:4: 'with' stands with the variable x"),
        ("test_a if {\n\tsome x in [1]\n\tp[x] with input as 1\n}", "5:7: 'with' stands with the variable x"),
        ("f(x) if p with input as x", "3:11: 'with' stands with the variable x"),
        ("test_a if every x in [1] { p with input as x }", "3:30: 'with' is read by the embedded engine only"),
        ("test_a if { [1 | p with input as 2] }", "3:20: 'with' is read by the embedded engine only"),
        ("test_a if { some x in p with input as 1 }", "3:25: 'with' is read by the embedded engine only"),
        ("test_a if { p with input.a as 1 }", "3:15: 'with' replaces input.a; only input and data"),
        ("test_a if { p with count as f }", "3:15: 'with' replaces count; only input and data"),
        ("test_a if { p with input }", "3:15: 'with' has no 'as' with a value"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_place(body: str, said: str) -> None:
    (problem,) = rewrite(body).problems
    assert str(problem).startswith(f"m_test.rego:{said}")


def test_fields_of_the_name_of_a_variable_are_no_variables() -> None:
    assert rewrite('test_a if {\n\tx := 1\n\tp.x with input as {"x": data.x}\n}').problems == ()
