"""Marks: the same answers as without them, and the number of a definition is printed exactly when its body held."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings

from reconciler.policy.link import WorkerLink
from reconciler.policy.marks import Definition, Marked, mark_modules, read_marks
from tests.policy.example import bundle_of, example_bundle, message_question, module
from tests.policy.random_rego import DATA, policies, questions

FORMS = """
decision := {"allow": allow, "reasons": deny}
default allow := false
allow if {
	input.a == 1   # a comment
}
allow := true if input.a == 2
else := false if input.a == 3
else := true if {
	input.a == 4
}
deny contains "three" if input.a == 3
deny contains reason if { some x in input.list; x > 1; reason := sprintf("%v", [x]) }
limits[name] := size if some name, size in input.sizes
limits["fixed"] := 1
plain := 5
half = 0.5 if input.a
f(">", _)
f(x, y) := x if {
	x == y
} else := y if y > 5
called if f(input.a, input.b) == 6
nested.name := 1 if input.a
other contains contains("abc", "b") if input.a
alike if input.a == input.b
"""


@pytest.fixture(scope="module")
def link() -> Iterator[WorkerLink]:
    found = WorkerLink(memory_bytes=2**28)
    yield found
    found.close()


def load(link: WorkerLink, modules: Mapping[str, str], data: Mapping[str, Any] = DATA) -> None:
    reply = link.ask("load", 10, modules=modules, data=data, entry_points=[])
    assert "error" not in reply, (reply, modules)


def held(link: WorkerLink, marked: Marked, path: str, question: object) -> list[str]:
    """Names and lines of what held; the body begins on line 3."""
    reply = link.ask("load", 10, modules=marked.modules, data=DATA, entry_points=[path])
    assert "error" not in reply, (reply, marked.modules)
    reply = link.ask("evaluate", 5, path=path, question=question, marks=True)
    return [f"{marked.definitions[n].name}:{marked.definitions[n].line}" for n in reply["marks"]]


def marked_forms() -> Marked:
    return mark_modules(bundle_of({"policies/a.rego": module(FORMS)}).modules)


def test_a_definition_is_a_head_with_one_body() -> None:
    found = marked_forms().definitions
    assert [(d.name, d.line, d.last_line, d.is_constant) for d in found] == [
        ("decision", 4, 4, True),
        ("allow", 6, 8, False),
        ("allow", 9, 9, False),
        ("allow", 10, 10, False),
        ("allow", 11, 13, False),
        ("deny", 14, 14, False),
        ("deny", 15, 15, False),
        ("limits", 16, 16, False),
        ("limits.fixed", 17, 17, True),
        ("plain", 18, 18, True),
        ("half", 19, 19, False),
        ("f", 20, 20, True),
        ("f", 21, 23, False),
        ("f", 23, 23, False),
        ("called", 24, 24, False),
        ("nested.name", 25, 25, False),
        ("other", 26, 26, False),
        ("alike", 27, 27, False),
    ]
    assert found[0] == Definition(
        file="policies/a.rego", package="hub.message", name="decision", line=4, last_line=4, is_constant=True
    )


@pytest.mark.parametrize(
    ("path", "question", "expected"),
    [
        ("hub/message/allow", {"a": 1}, ["allow:6"]),
        ("hub/message/allow", {"a": 2}, ["allow:9"]),
        ("hub/message/allow", {"a": 3}, ["allow:10"]),
        ("hub/message/allow", {"a": 4}, ["allow:11"]),
        ("hub/message/allow", {"a": 5}, []),
        ("hub/message/deny", {"a": 3, "list": [1]}, ["deny:14"]),
        ("hub/message/deny", {"a": 1, "list": [1, 2, 3]}, ["deny:15"]),
        ("hub/message/limits", {"sizes": {"x": 1}}, ["limits:16", "limits.fixed:17"]),
        ("hub/message/plain", {}, ["plain:18"]),
        ("hub/message/half", {"a": 0}, ["half:19"]),
        ("hub/message/called", {"a": 6, "b": 6}, ["f:21", "called:24"]),
        ("hub/message/called", {"a": 1, "b": 6}, ["f:23", "called:24"]),
        ("hub/message/called", {"a": ">", "b": 6}, ["f:20", "f:23"]),
        ("hub/message/called", {"a": 1, "b": 5}, []),
        ("hub/message/nested/name", {"a": 1}, ["nested.name:25"]),
        ("hub/message/other", {"a": 1}, ["other:26"]),
        ("hub/message/alike", {"a": 1, "b": 2}, []),
    ],
)
def test_what_held_is_printed(link: WorkerLink, path: str, question: object, expected: list[str]) -> None:
    assert held(link, marked_forms(), path, question) == expected


def test_heads_of_other_forms_have_no_marks() -> None:
    modules = bundle_of({"a.rego": module("x[a][b] := 1 if { some a, b in input }\ny := 1")}).modules
    marked = mark_modules(modules)
    assert ([d.name for d in marked.definitions], marked.unmarked) == (["y"], 1)
    assert "x[a][b] := 1 if { some a, b in input }\n" in marked.modules["a.rego"]


def test_tests_have_no_marks() -> None:
    bundle = example_bundle()
    assert not any(path.endswith("_test.rego") for path in mark_modules(bundle.modules).modules)


def test_other_lines_are_no_marks() -> None:
    assert read_marks("hub_mark 3\nhub_mark <undefined>\n hub_mark 4\nhub_mark 12\nhub_mark 3\n") == {3, 12}


@given(text=policies(), question=questions())
@settings(max_examples=150)
def test_answers_are_the_same_and_each_reason_has_its_mark(link: WorkerLink, text: str, question: Any) -> None:
    modules = {"policies/message.rego": text}
    marked = mark_modules(modules)
    load(link, modules)
    plain = link.ask("decide", 5, kind="message", question=question)
    load(link, marked.modules)
    answer = link.ask("decide", 5, kind="message", question=question, marks=True)
    assert {**answer, "id": 0} == {**plain, "id": 0, "marks": answer["marks"]}, text

    rules = [number for number, definition in enumerate(marked.definitions) if definition.name == "deny"]
    reached = {str(nth) for nth, number in enumerate(rules) if number in answer["marks"]}
    assert reached == {reason.partition(" ")[0] for reason in answer["reasons"]}, text


def test_the_example_answers_the_same(link: WorkerLink) -> None:
    bundle = example_bundle()
    for question in (message_question(), message_question(grants={}), {}):
        load(link, bundle.modules, bundle.data)
        plain = link.ask("decide", 5, kind="message", question=question)
        load(link, mark_modules(bundle.modules).modules, bundle.data)
        answer = link.ask("decide", 5, kind="message", question=question)
        assert (answer["allow"], answer["reasons"]) == (plain["allow"], plain["reasons"])
