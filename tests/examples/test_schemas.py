"""The schemas of messages: valid themselves, and as strict as they should be."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from .stage import ROOT

MESSAGES = ROOT / "schemas" / "messages"
ALL = sorted((ROOT / "schemas").rglob("*.schema.json"))
OF_THE_HUB = {
    "agent.hello",
    "agent.heartbeat",
    "task.assigned",
    "task.started",
    "task.progress",
    "task.completed",
    "task.failed",
    "task.cancel",
    "capability.query",
    "delegation.request",
    "policy.changed",
    "security.alert",
}
ATTEMPT = {"task": "churn", "run": "r1", "generation": 1}
SHA256 = "0" * 64
GOOD: dict[str, list[dict[str, Any]]] = {
    "agent.hello": [
        {
            "version": "1",
            "capabilities": ["docs.write"],
            "executor": "command",
            "agentd": "0.1.0",
            "pid": 7,
            "boot_id": "b",
        }
    ],
    "agent.heartbeat": [{"tasks": []}, {"tasks": [{"task": "churn", "generation": 2}]}],
    "task.assigned": [
        {
            **ATTEMPT,
            "lease_s": 30,
            "timeout_s": 120.5,
            "prompt": "Count.",
            "input": {"do": "size"},
            "parents": {"code-size": {"ok": True}, "other": "text"},
            "workspace": "/workspaces/0123456789ab",
            "output": {"maxSize": 1024, "artefacts": ["report.md"]},
            "sensitivity": "internal",
        }
    ],
    "task.started": [ATTEMPT],
    "task.progress": [{**ATTEMPT, "text": "reading"}],
    "task.completed": [
        {
            **ATTEMPT,
            "exit_code": 0,
            "result": result,
            "stdout_truncated": False,
            "artefacts": [{"name": "report.md", "size": 0, "sha256": SHA256, "content_base64": ""}],
            "duration_s": 0.5,
        }
        for result in ({"ok": True}, "text", None, [1])
    ],
    "task.failed": [
        {
            **ATTEMPT,
            "exit_code": code,
            "reason": reason,
            "error": "exited with code 1",
            "stderr_tail": "",
            "duration_s": 1,
        }
        for code, reason in ((1, "exit"), (None, "spawn"))
    ],
    "task.cancel": [ATTEMPT],
    "capability.query": [{"capabilities": ["docs.write"]}],
    "delegation.request": [{"agent": "analyst"}, {"requires": ["docs.write"], "timeout_s": 5}],
    "policy.changed": [{"revision": "1:abc"}],
    "security.alert": [
        {"severity": "high", "summary": "1 key"},
        {
            "severity": "low",
            "summary": "1 key",
            "task": "scan",
            "evidence": [{"path": "a.py", "line": 1, "rule": "aws-access-key"}],
        },
    ],
    "report.published": [{"task": "report", "title": "News", "sha256": SHA256, "sections": ["churn"]}],
    "review.request": [{"task": "churn", "paths": ["a b.py"], "reason": "changed often"}],
    "finding.raised": [{"task": "doc-links", "rule": "link", "path": "a.md", "line": 3, "message": "gone"}],
}
BAD: list[tuple[str, dict[str, Any]]] = [
    ("agent.hello", {"pid": 0}),
    ("agent.hello", {"capabilities": ["Not A Name"]}),
    ("agent.heartbeat", {"tasks": [{"task": "churn"}]}),
    ("task.assigned", {"lease_s": 0}),
    ("task.assigned", {"sensitivity": "secret"}),
    ("task.assigned", {"parents": {"../up": 1}}),
    ("task.started", {"generation": -1}),
    ("task.started", {"generation": "1"}),
    ("task.progress", {"text": 5}),
    ("task.completed", {"artefacts": [{"name": "a"}]}),
    ("task.completed", {"exit_code": None}),
    ("task.failed", {"reason": "bored"}),
    ("task.cancel", {"task": "Not A Name"}),
    ("capability.query", {"capabilities": []}),
    ("delegation.request", {"requires": ["both.given"]}),
    ("policy.changed", {"revision": ""}),
    ("security.alert", {"severity": "huge"}),
    ("security.alert", {"evidence": [{"path": "a", "line": 0, "rule": "x"}]}),
    ("report.published", {"sha256": "0" * 63}),
    ("report.published", {"sections": []}),
    ("review.request", {"paths": []}),
    ("finding.raised", {"line": 0}),
    ("finding.raised", {"path": ""}),
]
CLOSED = sorted(GOOD.keys() - {"capability.query", "delegation.request", "policy.changed"})


def validator(type_name: str) -> Any:
    schema = json.loads((MESSAGES / f"{type_name}.schema.json").read_text())
    return jsonschema_rs.Draft202012Validator(schema, offline=True)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_each_schema_is_valid_and_needs_nothing_from_elsewhere(path: Path) -> None:
    schema = json.loads(path.read_text())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)
    jsonschema_rs.Draft202012Validator(schema, offline=True)


def test_every_type_of_the_hub_and_of_the_fleet_has_a_schema() -> None:
    shipped = {path.name.removesuffix(".schema.json") for path in MESSAGES.iterdir()}
    assert shipped == GOOD.keys()
    assert shipped >= OF_THE_HUB


@pytest.mark.parametrize("path", sorted(MESSAGES.iterdir()), ids=lambda path: path.name)
def test_a_schema_is_named_after_its_type(path: Path) -> None:
    schema = json.loads(path.read_text())
    type_name = path.name.removesuffix(".schema.json")
    assert schema["title"] == type_name
    assert schema["$id"] == f"urn:reconciler:message:{type_name}"


@pytest.mark.parametrize(("type_name", "payload"), [(t, p) for t in GOOD for p in GOOD[t]])
def test_good_payloads_are_accepted(type_name: str, payload: dict[str, Any]) -> None:
    validator(type_name).validate(payload)


@pytest.mark.parametrize(("type_name", "wrong"), BAD)
def test_wrong_payloads_are_refused(type_name: str, wrong: dict[str, Any]) -> None:
    assert not validator(type_name).is_valid({**GOOD[type_name][0], **wrong})


@pytest.mark.parametrize("type_name", CLOSED)
def test_unknown_keys_are_refused(type_name: str) -> None:
    assert not validator(type_name).is_valid({**GOOD[type_name][0], "surprise": 1})


@pytest.mark.parametrize("type_name", sorted(GOOD))
def test_each_required_key_is_missed(type_name: str) -> None:
    required = json.loads((MESSAGES / f"{type_name}.schema.json").read_text())["required"]
    for key in required:
        payload = {k: v for k, v in GOOD[type_name][0].items() if k != key}
        assert not validator(type_name).is_valid(payload)
