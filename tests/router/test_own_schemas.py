"""The schemas of the hub's own types: there for each, valid, strict, and what agentd and the hub really send conforms."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.agentd import message
from reconciler.agentd.artefacts import Artefact
from reconciler.agentd.assignment import Ref
from reconciler.agentd.config import Config, ExecutorSpec
from reconciler.agentd.outcome import Usage
from reconciler.router.own_schemas import own_schemas
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, task_text

CONTRACT = {
    "agent.hello",
    "agent.heartbeat",
    "task.assigned",
    "task.started",
    "task.progress",
    "task.completed",
    "task.failed",
    "task.cancel",
    "delegation.request",
    "capability.query",
    "policy.changed",
    "security.alert",
}
REPLIES = {"agent.hello.reply", "capability.query.reply"}
ATTEMPT = {"task": "churn", "run": "r1", "generation": 1}
REF = Ref(task="churn", run="r1", generation=1)
REASONS = [
    *("exit", "timeout", "first_output", "progress", "cancelled", "too_large", "spawn", "shutdown"),
    *("model_refused", "model_unavailable", "limit"),
]
USAGES = (None, Usage().to_json(), Usage(model="m" * 999, turns=2, input_tokens=5, cost_usd=0.0).to_json())


def faults(type_: str, payload: object) -> list[str]:
    """JSON pointers to what is wrong."""
    validator = jsonschema_rs.Draft202012Validator(dict(own_schemas()[type_]), offline=True)
    return sorted({"".join(f"/{step}" for step in e.instance_path) for e in validator.iter_errors(payload)})


def test_every_type_of_the_contract_has_one() -> None:
    assert own_schemas().keys() == CONTRACT | REPLIES


@pytest.mark.parametrize("type_", sorted(CONTRACT | REPLIES))
def test_each_is_valid_named_after_its_type_and_closed(type_: str) -> None:
    schema = own_schemas()[type_]
    jsonschema_rs.meta.validate(dict(schema))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["title"], schema["$id"]) == (type_, f"urn:reconciler:message:{type_}")
    assert list(open_objects(schema)) == []
    assert faults(type_, "text") == [""]
    assert faults(type_, []) == [""]


def open_objects(schema: object) -> Iterator[object]:
    """Objects with named properties that would take others too."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("additionalProperties") is not False:
            yield schema
        for child in schema.values():
            yield from open_objects(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from open_objects(child)


# --- what is really sent ----------------------------------------------------------------------------------------------

texts = st.text(max_size=20)
config = Config(
    agent="writer",
    instance="writer-0",
    socket_path="",
    token_file="",
    version="1",
    capabilities=("docs.write", "git.read"),
    executor=ExecutorSpec(),
    base_env={},
)


def sent() -> Iterator[message.Message]:
    artefact = Artefact(name="a/report.md", content=b"text")
    yield message.build_hello(config, "boot")
    yield message.build_hello(config, "")
    yield message.build_heartbeat([])
    yield message.build_heartbeat([REF, REF])
    yield message.build_started(REF, "m")
    yield message.build_progress(REF, "reading", "m")
    for result in ({"ok": True}, "text", None, [1], 1.5):
        yield message.build_completed(REF, result, [artefact], 0.25, "m")
    for usage in USAGES:
        yield message.build_completed(REF, "text", [], 0.25, "m", usage)
    for reason in REASONS:
        for code, partial in ((1, None), (None, {"half": 1})):
            yield message.build_failed(
                REF,
                exit_code=code,
                reason=reason,
                error="it broke",
                stderr_tail="Traceback",
                duration_s=0,
                correlation_id="m",
                partial=partial,
                usage=USAGES[2],
            )


@pytest.mark.parametrize("said", list(sent()), ids=lambda m: m.type)
def test_what_agentd_sends_conforms(said: message.Message) -> None:
    assert faults(said.type, json.loads(said.body)["payload"]) == []


@given(texts, texts, texts, st.integers(-(2**31), 2**31) | st.none(), st.floats(0, 1e9))
def test_what_agentd_sends_conforms_whatever_a_program_printed(
    error: str, tail: str, output: str, code: int | None, duration_s: float
) -> None:
    failed = message.build_failed(
        REF,
        exit_code=code,
        reason="exit",
        error=error,
        stderr_tail=tail,
        duration_s=duration_s,
        correlation_id="m",
        partial=output,
    )
    assert faults(failed.type, json.loads(failed.body)["payload"]) == []
    completed = message.build_completed(REF, output, [], duration_s, "m")
    assert faults(completed.type, json.loads(completed.body)["payload"]) == []


def test_what_the_hub_sends_conforms(tmp_path: Path) -> None:
    """Two assignments, one of them with everything that a task may say, and a cancellation."""
    fleet = FakeFleet(tmp_path)
    fleet.agents.holding.add("changelog")
    full = task_text(
        "first",
        prompt="Do it.",
        input={"a": [1, {"b": None}]},
        output={"maxSize": "1KiB", "artefacts": ["*.md"]},
        sensitivity="restricted",
        timeout="90s",
    )
    files = {
        "agents.d/a.yaml": agent_text(workspace={"source": "repository"}),
        "tasks.d/a.yaml": full,
        "tasks.d/t.yaml": task_text(dependsOn=["first"]),
    }
    fleet.commit(files)
    for _ in range(12):
        fleet.run()
        fleet.agents.step()
    fleet.commit({path: text for path, text in files.items() if path != "tasks.d/t.yaml"})
    fleet.run()
    messages = [sending["message"] for sending in fleet.router.sent]
    fleet.end_hub()
    assert [m["type"] for m in messages] == ["task.assigned", "task.assigned", "task.cancel"]
    assert [faults(m["type"], m["payload"]) for m in messages] == [[], [], []]


# --- what is wrong, and where -----------------------------------------------------------------------------------------

ALERT = {"severity": "high", "summary": "a key", "evidence": [{"path": "a.py", "line": 1, "rule": "aws"}]}
COMPLETED = {**ATTEMPT, "exit_code": 0, "result": None, "artefacts": []}
HELLO = {"version": "1", "capabilities": ["docs.write"], "executor": "command"}
ASSIGNED = {**ATTEMPT, "lease_s": 30, "input": {}}
FOUND = {
    "agents": [
        {"agent": "a", "role": "", "labels": {}, "capabilities": [], "ready": 0, "types": ["review.request"]},
    ],
    "complete": True,
}
ARTEFACT = {"name": "a", "size": 0, "sha256": "0" * 64, "content_base64": ""}


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        ("agent.hello", HELLO),
        ("task.failed", {**ATTEMPT, "reason": "exit"}),
        ("delegation.request", {"agent": "analyst", "prompt": "Count.", "input": {"n": [1]}, "capabilities": []}),
        ("delegation.request", {"requires": ["docs.write"], "timeout_s": 5, "sensitivity": "public"}),
        ("capability.query", {}),
        ("capability.query", {"capabilities": ["docs.write"], "role": "writer", "labels": {"team": "docs"}}),
        ("capability.query.reply", FOUND),
        ("agent.hello.reply", {"ok": True, "instance": "writer-0"}),
        ("policy.changed", {"revision": "1:abc"}),
        ("security.alert", ALERT),
    ],
)
def test_what_other_clients_may_send_conforms(type_: str, payload: dict[str, Any]) -> None:
    assert faults(type_, payload) == []


@pytest.mark.parametrize(
    ("type_", "payload", "pointer"),
    [
        ("agent.hello", {**HELLO, "pid": 0}, "/pid"),
        ("agent.hello", {**HELLO, "capabilities": ["docs.write", "Not A Name"]}, "/capabilities/1"),
        ("agent.heartbeat", {"tasks": [{"task": "churn"}]}, "/tasks/0"),
        ("task.assigned", {**ASSIGNED, "lease_s": 0}, "/lease_s"),
        ("task.assigned", {**ASSIGNED, "sensitivity": "secret"}, "/sensitivity"),
        ("task.assigned", {**ASSIGNED, "output": {"maxSize": -1}}, "/output/maxSize"),
        ("task.started", {**ATTEMPT, "generation": -1}, "/generation"),
        ("task.started", {**ATTEMPT, "generation": "1"}, "/generation"),
        ("task.progress", {**ATTEMPT, "text": 5}, "/text"),
        ("task.completed", {**COMPLETED, "exit_code": None}, "/exit_code"),
        ("task.completed", {**COMPLETED, "artefacts": [ARTEFACT, {"name": "a"}]}, "/artefacts/1"),
        ("task.completed", {**COMPLETED, "artefacts": [{**ARTEFACT, "sha256": "0"}]}, "/artefacts/0/sha256"),
        ("task.failed", {**ATTEMPT, "reason": "bored"}, "/reason"),
        ("task.cancel", {**ATTEMPT, "task": "Not A Name"}, "/task"),
        ("delegation.request", {"agent": "a", "requires": ["b"]}, ""),
        ("delegation.request", {"agent": "a", "input": [1]}, "/input"),
        ("delegation.request", {"agent": "a", "capabilities": ["Not A Name"]}, "/capabilities/0"),
        ("delegation.request", {"agent": "a", "timeout_s": 1e12}, "/timeout_s"),
        ("capability.query", {"capabilities": []}, "/capabilities"),
        ("capability.query", {"labels": {"team": 1}}, "/labels/team"),
        ("policy.changed", {"revision": ""}, "/revision"),
        ("security.alert", {**ALERT, "severity": "huge"}, "/severity"),
        ("security.alert", {**ALERT, "evidence": [{"path": "a", "line": 0, "rule": "x"}]}, "/evidence/0/line"),
    ],
)
def test_what_is_wrong_is_found_where_it_is(type_: str, payload: dict[str, Any], pointer: str) -> None:
    assert faults(type_, payload) == [pointer]


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        ("agent.hello", HELLO),
        ("task.completed", COMPLETED),
        ("security.alert", ALERT),
        ("policy.changed", {"revision": "r"}),
    ],
)
def test_unknown_and_missing_members_are_found(type_: str, payload: dict[str, Any]) -> None:
    assert faults(type_, {**payload, "surprise": 1}) == [""]
    for name in own_schemas()[type_]["required"]:
        assert faults(type_, {k: v for k, v in payload.items() if k != name}) == [""]
