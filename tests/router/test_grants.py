"""The builtin engine, asked directly."""

import asyncio
from typing import Any

import pytest

from reconciler.router.grants import GrantsEngine

SENDS = [{"to": "reviewer", "types": ["review.*"]}, {"topic": "docs.>", "types": ["docs.published"]}]


def question(kind: str, name: str, type_: str, pattern: str = "event") -> dict[str, Any]:
    return {
        "sender": {"agent": "writer", "instance": "writer-0"},
        "recipient": {"kind": kind, "name": name},
        "message": {"type": type_, "pattern": pattern},
        "grants": {"sends": SENDS},
    }


@pytest.mark.parametrize(
    ("asked", "allow"),
    [
        (question("agent", "reviewer", "review.request"), True),
        (question("agent", "reviewer", "other.request"), False),
        (question("agent", "auditor", "review.request"), False),
        (question("agent", "writer", "other", "reply"), True),
        (question("topic", "docs.new", "docs.published"), True),
        (question("topic", "docs", "docs.published"), False),
        (question("topic", "docs.new", "docs.other"), False),
        (question("topic", "reviewer", "review.request"), False),
        (question("hub", "hub", "agent.hello"), True),
    ],
)
def test_it_allows_what_the_manifest_grants(asked: dict[str, Any], allow: bool) -> None:
    decision = asyncio.run(GrantsEngine("r1").decide("message", asked))
    assert (decision.allow, decision.engine, decision.revision) == (allow, "builtin", "r1")
    assert allow or decision.reasons


def test_it_has_no_rule_for_other_questions() -> None:
    assert not asyncio.run(GrantsEngine("r1").decide("task", {})).allow
