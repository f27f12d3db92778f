"""What people want to know of a bundle."""

import dataclasses

import pytest

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy.explain import EntryPoint, describe_entry_points, find_held_rules, find_whole_inputs
from reconciler.policy.link import WorkerLink
from reconciler.policy.reads import Reads
from reconciler.ports import PolicyBundle
from tests.policy.example import bundle_of, example_bundle, message_bundle, message_question, module

ALLOWED = Decision(allow=True, engine="embedded", revision="")


def start() -> WorkerLink:
    return WorkerLink(memory_bytes=2**28)


def held(bundle: PolicyBundle, question: dict[str, object], decision: Decision) -> list[str] | None:
    found = find_held_rules(start, bundle, "message", question, decision)
    return None if found is None else [f"{rule.file}:{rule.line} {rule.name}" for rule in found]


def test_each_kind_is_described() -> None:
    modules = {
        "m.rego": module('decision := {"allow": input.a.b == 1}'),
        "t.rego": module('decision := {"allow": count(input) > 1}', "hub.task"),
    }
    assert describe_entry_points(start, bundle_of(modules)) == (
        EntryPoint(kind="message", reads=Reads(paths=(("a", "b"),))),
        EntryPoint(kind="task", reads=Reads(obstacle="it uses input as a whole")),
        EntryPoint(kind="delegation", reads=None),
        EntryPoint(kind="admission", reads=None),
        EntryPoint(kind="llm", reads=None),
    )


def test_where_input_stands_alone_is_found() -> None:
    body = "decision := {}\na if count(input) > 1\nb if input.x[input.y]\nc if input[data.x]"
    modules = {"m.rego": module(body), "m_test.rego": module("test_a if input", "hub.message_test")}
    assert find_whole_inputs(bundle_of(modules)) == ("m.rego:4", "m.rego:6")


def test_the_rules_that_held_are_named() -> None:
    body = """decision := {"allow": count(deny) == 0, "reasons": deny}
deny contains "public" if input.message.sensitivity == "public"
deny contains "large" if is_large
is_large if input.message.size_bytes > 50
is_small if input.message.size_bytes < 50"""
    denied = Decision(allow=False, reasons=("large",), engine="embedded", revision="")
    assert held(message_bundle(body), message_question(), denied) == [
        "policies/message.rego:3 decision",
        "policies/message.rego:5 deny",
        "policies/message.rego:6 is_large",
    ]


def test_rules_of_another_decision_are_not_told() -> None:
    assert held(message_bundle('decision := {"allow": false}'), message_question(), ALLOWED) is None


def test_the_example_explains_itself() -> None:
    names = {line.rpartition(" ")[2] for line in held(example_bundle(), message_question(), ALLOWED) or ()}
    assert {"decision", "is_complete", "is_granted"} <= names
    assert "deny" not in names


def test_what_cannot_be_loaded_is_an_error() -> None:
    broken = dataclasses.replace(example_bundle(), data={})
    with pytest.raises(PolicyEngineError, match=r"hub\.revision"):
        describe_entry_points(start, broken)
