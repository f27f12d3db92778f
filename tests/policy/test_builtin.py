"""The built-in rules: what manifests and settings alone allow."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.policy.builtin import FROM_HUB, TO_HUB, Facts, decide, matches_topic
from tests.policy.example import message_question, task_question

FACTS = Facts(images=(("agents/*",), ("agents/*", "registry/*")))


def reasons(kind: str, question: dict[str, Any], facts: Facts = FACTS) -> tuple[str, ...]:
    """Why not; empty where it is allowed."""
    decision = decide(kind, question, facts, "r1")
    assert (decision.engine, decision.revision, decision.allow) == ("builtin", "r1", not decision.reasons)
    return decision.reasons


def sending(sent: str, recipient: dict[str, Any], sends: list[dict[str, Any]], **message: object) -> dict[str, Any]:
    return message_question(
        recipient=recipient,
        message={"type": sent, "pattern": "request", "size_bytes": 1, "sensitivity": "internal", **message},
        grants={"sends": sends},
    )


WRITER = {"kind": "agent", "name": "writer"}


def test_a_grant_names_agent_and_type() -> None:
    sends = [{"to": "writer", "types": ["a.b"]}]
    assert reasons("message", sending("a.b", WRITER, sends)) == ()
    assert reasons("message", sending("a.c", WRITER, sends)) == (
        "counter has no grant to send a.c to agent writer (messaging.sends)",
    )
    assert reasons("message", sending("a.b", {"kind": "agent", "name": "other"}, sends)) != ()
    assert reasons("message", sending("a.b", WRITER, [{"to": "writer", "types": []}])) != ()
    assert reasons("message", sending("a.b", WRITER, [])) != ()


def test_a_grant_for_topics_has_a_pattern_and_perhaps_types() -> None:
    topic = {"kind": "topic", "name": "findings.style"}
    assert reasons("message", sending("a.b", topic, [{"topic": "findings.*", "types": []}])) == ()
    assert reasons("message", sending("a.b", topic, [{"topic": "findings.*"}])) == ()
    assert reasons("message", sending("a.b", topic, [{"topic": "findings.*", "types": ["a.c"]}])) != ()
    assert reasons("message", sending("a.b", topic, [{"topic": "findings.*", "types": [">"]}])) == ()
    assert reasons("message", sending("a.b", topic, [{"topic": "findings.*", "types": ["a.*"]}])) == ()
    assert reasons("message", sending("a.b", topic, [{"topic": "reports.*"}])) != ()
    assert reasons("message", sending("a.b", topic, [{"to": "findings.style", "types": ["a.b"]}])) != ()


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("*", "a", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("*.b", "a.b", True),
        ("*.b", "a.c", False),
    ],
)
def test_topic_patterns(pattern: str, topic: str, fits: bool) -> None:
    assert matches_topic(pattern, topic) == fits


def test_the_hub_takes_its_own_types_from_everyone() -> None:
    for sent in TO_HUB:
        assert reasons("message", sending(sent, {"kind": "hub", "name": "hub"}, [])) == ()
    for sent in ("finding.raised", *FROM_HUB):
        assert reasons("message", sending(sent, {"kind": "hub"}, [])) == (f"{sent} is no message for the hub",)


def test_types_of_the_hub_go_between_agents_in_no_case() -> None:
    for sent in TO_HUB | FROM_HUB:
        assert reasons("message", sending(sent, WRITER, [{"to": "writer", "types": [sent]}])) != ()


def test_without_cross_agent_messages_only_the_hub_is_left() -> None:
    facts = Facts(allow_cross_agent=False)
    sends = [{"to": "writer", "types": ["a.b"]}]
    assert reasons("message", sending("a.b", WRITER, sends), facts) == (
        "agents may message only the hub (orchestrator.allowCrossAgent is false)",
    )
    assert reasons("message", sending("agent.hello", {"kind": "hub"}, []), facts) == ()


def test_broadcasts_are_the_hubs_and_replies_need_no_grant() -> None:
    sends = [{"to": "writer", "types": ["a.b"]}]
    assert reasons("message", sending("a.b", WRITER, sends, pattern="broadcast")) == ("only the hub sends broadcasts",)
    assert reasons("message", sending("a.c", WRITER, [], pattern="reply")) == ()


def test_a_task_goes_to_an_agent_that_is_there_and_can() -> None:
    assert reasons("task", task_question()) == ()
    assert reasons("task", task_question(task={"requires": ["code.count", "x.y", "a.b"]})) == (
        "counter lacks a.b, x.y",
    )
    assert reasons("task", {**task_question(), "agent": None}) == ("there is no such agent",)


@pytest.mark.parametrize("sensitivity", ["public", "internal", "confidential", "restricted"])
@pytest.mark.parametrize("exposure", ["none", "private", "public"])
@pytest.mark.parametrize("sandboxed", [True, False])
def test_sensitive_work_stays_private_and_in_a_sandbox(sensitivity: str, exposure: str, sandboxed: bool) -> None:
    question = task_question(task={"sensitivity": sensitivity}, agent={"exposure": exposure, "sandboxed": sandboxed})
    is_open = sensitivity in ("public", "internal")
    assert (reasons("task", question) == ()) == (is_open or (exposure != "public" and sandboxed))


def test_an_unknown_sensitivity_or_exposure_is_denied() -> None:
    assert reasons("task", task_question(task={"sensitivity": "secret"})) == ("there is no sensitivity 'secret'",)
    assert reasons("task", task_question(agent={"exposure": "galaxy"})) != ()


def delegating(**changes: Any) -> dict[str, Any]:
    agent = {"capabilities": ["a.b"], "exposure": "none", "sandboxed": True}
    return {
        "parent": {**agent, "name": "lead", "delegation": {"to": ["helper"], "maxDepth": 2}},
        "child": {**agent, "name": "helper"},
        "task": {"sensitivity": "internal"},
        "depth": 1,
        "capabilities": ["a.b"],
        "budget_left": {"tasks": 1},
        **changes,
    }


def test_a_delegation_stays_within_the_grant() -> None:
    assert reasons("delegation", delegating()) == ()
    assert reasons("delegation", delegating(depth=2)) == ()
    assert reasons("delegation", delegating(depth=3)) == ("depth 3 is more than 2 (delegation.maxDepth)",)
    assert reasons("delegation", delegating(depth="1")) != ()
    assert reasons("delegation", delegating(capabilities=["c.d"])) == ("lead lacks c.d", "helper lacks c.d")
    assert reasons("delegation", delegating(budget_left={"tasks": 0})) != ()
    assert reasons("delegation", delegating(budget_left=0)) != ()
    assert reasons("delegation", delegating(budget_left=None)) == ()
    assert reasons("delegation", delegating(parent={"name": "lead", "capabilities": ["a.b"]})) == (
        "lead may not delegate to helper (delegation.to)",
    )


def admitting(image: object, kind: str = "agent") -> dict[str, Any]:
    return {"kind": kind, "name": "writer", "spec": {"image": image}, "before": None, "environment": None}


def test_images_must_please_the_hub_and_the_operator() -> None:
    assert reasons("admission", admitting("agents/base:1")) == ()
    assert reasons("admission", admitting("registry/base:1")) == (
        "agent writer: image registry/base:1 is not among agents/*; agents/* registry/*",
    )
    assert reasons("admission", admitting(None)) != ()
    assert reasons("admission", admitting("agents/base:1"), Facts()) != ()


def test_other_resources_and_removals_are_admitted() -> None:
    assert reasons("admission", admitting("x", kind="task")) == ()
    assert reasons("admission", {**admitting("x"), "spec": None}) == ()
    assert reasons("admission", admitting("x", kind="node")) != ()


def test_an_unknown_kind_of_question_is_denied() -> None:
    assert reasons("flight", {}) == ("there are no rules for questions of kind flight",)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
WORDS = [
    "sender",
    "recipient",
    "message",
    "grants",
    "task",
    "agent",
    "parent",
    "child",
    "kind",
    "spec",
    "sends",
    "name",
]
QUESTIONS = st.dictionaries(st.sampled_from(WORDS), ANY | st.dictionaries(st.sampled_from(WORDS), ANY))


@given(kind=st.sampled_from(["message", "task", "delegation", "admission"]), question=QUESTIONS)
def test_no_question_breaks_it(kind: str, question: dict[str, Any]) -> None:
    decide(kind, question, FACTS, "r1")


def asking(exposure: str, sensitivity: str) -> dict[str, Any]:
    return {
        "agent": {"name": "writer"},
        "provider": {"name": "cloud", "exposure": exposure},
        "sensitivity": sensitivity,
    }


def test_a_model_is_asked_where_its_reach_allows_the_work() -> None:
    assert reasons("llm", asking("public", "internal")) == ()
    assert reasons("llm", asking("private", "restricted")) == ()
    assert reasons("llm", asking("public", "confidential")) == (
        "writer has had confidential work, which may not reach cloud (public)",
    )
    assert reasons("llm", asking("none", "public")) != ()
    assert reasons("llm", asking("private", "secret")) == ("there is no sensitivity 'secret'",)
    assert reasons("llm", {}) == ("the question names no agent or no provider",)
