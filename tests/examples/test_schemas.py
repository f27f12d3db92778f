"""The schemas of messages: valid themselves, and as strict as they should be."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from reconciler.router.own_schemas import own_schemas

from .stage import ROOT

MESSAGES = ROOT / "schemas" / "messages"
ALL = sorted((ROOT / "schemas").rglob("*.schema.json"))
SHA256 = "0" * 64
GOOD: dict[str, list[dict[str, Any]]] = {
    "report.published": [{"task": "report", "title": "News", "sha256": SHA256, "sections": ["churn"]}],
    "review.request": [{"task": "churn", "paths": ["a b.py"], "reason": "changed often"}],
    "finding.raised": [{"task": "doc-links", "rule": "link", "path": "a.md", "line": 3, "message": "gone"}],
}
BAD: list[tuple[str, dict[str, Any]]] = [
    ("report.published", {"sha256": "0" * 63}),
    ("report.published", {"sections": []}),
    ("review.request", {"paths": []}),
    ("finding.raised", {"line": 0}),
    ("finding.raised", {"path": ""}),
]


def validator(type_name: str) -> Any:
    schema = json.loads((MESSAGES / f"{type_name}.schema.json").read_text())
    return jsonschema_rs.Draft202012Validator(schema, offline=True)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_each_schema_is_valid_and_needs_nothing_from_elsewhere(path: Path) -> None:
    schema = json.loads(path.read_text())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)
    jsonschema_rs.Draft202012Validator(schema, offline=True)


def test_every_type_of_the_fleet_has_a_schema_and_none_of_the_hubs_own() -> None:
    shipped = {path.name.removesuffix(".schema.json") for path in MESSAGES.iterdir()}
    assert shipped == GOOD.keys()
    assert shipped.isdisjoint(own_schemas())


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


@pytest.mark.parametrize("type_name", sorted(GOOD))
def test_unknown_keys_are_refused(type_name: str) -> None:
    assert not validator(type_name).is_valid({**GOOD[type_name][0], "surprise": 1})


@pytest.mark.parametrize("type_name", sorted(GOOD))
def test_each_required_key_is_missed(type_name: str) -> None:
    required = json.loads((MESSAGES / f"{type_name}.schema.json").read_text())["required"]
    for key in required:
        payload = {k: v for k, v in GOOD[type_name][0].items() if k != key}
        assert not validator(type_name).is_valid(payload)
