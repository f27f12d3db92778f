"""The example policies: their own tests, and how they relate to the built-in rules.

The built-in rules know grants, capabilities, sensitivity and the sandbox, and so do the examples: there both must
agree. Role separation, topics and size (messages), the inbox and business hours (tasks) are the examples' own, and
there only the example denies.
"""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.policy.builtin import Facts, decide
from reconciler.policy.chain import Chain
from reconciler.policy.embedded import EmbeddedEngine
from tests.policy.example import example_bundle, message_question, task_question


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine()
    engine.activate(example_bundle())
    yield engine
    engine.close()


def test_they_pass_their_own_tests_and_checks() -> None:
    engine = EmbeddedEngine()
    try:
        assert list(engine.check(example_bundle())) == []
    finally:
        engine.close()


HUB = {"kind": "hub", "name": "hub"}
TOPIC = {"kind": "topic", "name": "findings.style"}
PERFORMER = {"kind": "agent", "name": "writer", "role": "performer"}


def sending(sent: str, recipient: dict[str, Any], sends: list[dict[str, Any]], **message: object) -> dict[str, Any]:
    body = {"type": sent, "pattern": "request", "size_bytes": 1, "sensitivity": "internal", **message}
    return message_question(recipient=recipient, message=body, grants={"sends": sends})


WRITER = {"kind": "agent", "name": "writer", "role": "reporter"}
GRANT = [{"to": "writer", "types": ["a.b", "task.assigned"]}, {"topic": "findings.*", "types": []}]

ALIKE = [
    ("message", message_question(), True),
    ("message", message_question(grants={}), False),
    ("message", sending("a.b", WRITER, GRANT), True),
    ("message", sending("a.c", WRITER, GRANT), False),
    ("message", sending("a.b", TOPIC, GRANT), True),
    ("message", sending("a.b", TOPIC, [{"topic": "findings.*", "types": ["a.c"]}]), False),
    ("message", sending("a.b", TOPIC, [{"topic": "findings.>", "types": ["a.b"]}]), True),
    ("message", sending("task.assigned", WRITER, GRANT), False),
    ("message", sending("a.b", WRITER, GRANT, pattern="broadcast"), False),
    ("message", sending("a.c", WRITER, [], pattern="reply"), True),
    ("message", sending("a.c", HUB, [], pattern="reply"), True),
    ("message", sending("a.b", WRITER, [{"to": "writer", "types": ["a.*"]}]), True),
    ("message", sending("a.b", TOPIC, [{"topic": ">", "types": [">"]}]), True),
    ("message", sending("agent.heartbeat", HUB, []), True),
    ("message", sending("task.completed", HUB, []), True),
    ("message", sending("a.b", HUB, GRANT), False),
    ("message", {}, False),
    ("task", task_question(), True),
    ("task", task_question(task={"requires": ["x.y"]}), False),
    ("task", task_question(task={"sensitivity": "confidential"}), True),
    ("task", task_question(task={"sensitivity": "restricted"}, agent={"exposure": "private"}), True),
    ("task", task_question(task={"sensitivity": "restricted"}, agent={"exposure": "public"}), False),
    ("task", task_question(task={"sensitivity": "confidential"}, agent={"sandboxed": False}), False),
    ("task", task_question(task={"sensitivity": "secret"}), False),
    ("task", task_question(agent={"exposure": "public", "sandboxed": False}), True),
    ("task", task_question(agent={"role": "performer"}), True),
    ("task", {}, False),
]

STRICTER = [
    ("message", sending("a.b", PERFORMER, GRANT)),
    ("message", sending("a.b", TOPIC, GRANT, sensitivity="confidential")),
    ("task", task_question(task={"source": "inbox", "uid": 1000}, agent={"role": "performer"})),
    ("task", task_question(task={"source": "inbox", "uid": 1000, "sensitivity": "confidential"})),
    ("task", {**task_question(task={"labels": {"hours": "business"}}), "time": "2026-11-21T09:00:00Z"}),
]


@pytest.mark.parametrize(("kind", "question", "allow"), ALIKE)
def test_they_and_the_built_in_rules_agree(
    engine: EmbeddedEngine, kind: str, question: dict[str, Any], allow: bool
) -> None:
    ours, theirs = decide(kind, question, Facts(), ""), engine.decide(kind, question)
    assert (ours.allow, theirs.allow) == (allow, allow), (ours.reasons, theirs.reasons)


@pytest.mark.parametrize(("kind", "question"), STRICTER)
def test_they_are_stricter_where_they_say_so(engine: EmbeddedEngine, kind: str, question: dict[str, Any]) -> None:
    assert decide(kind, question, Facts(), "").allow
    assert not engine.decide(kind, question).allow


def test_a_chain_with_the_real_engine_answers_and_outlives_its_worker(engine: EmbeddedEngine) -> None:
    chain = Chain({"embedded": engine})
    chain.activate(example_bundle())
    answer = chain.answer("message", message_question())
    assert (answer.decision.allow, answer.decision.engine, answer.fallback) == (True, "embedded", False)
    assert answer.decision.revision == example_bundle().digest
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)
    assert chain.answer("message", message_question(grants={})).decision.allow is False
    assert engine.decide("message", message_question()).allow
