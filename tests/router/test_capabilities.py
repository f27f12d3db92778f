"""capability.query: found is what matches and may be sent to; the rest looks as if it did not exist."""

import asyncio
from typing import Any

import jsonschema_rs
import msgspec

from reconciler.router.capabilities import MAX_QUESTIONS, find_agents
from reconciler.router.config import Config, InstanceEntry
from reconciler.router.own_schemas import own_schemas
from reconciler.router.registry import Registry

AGENTS = {
    "writer": {
        "role": "writer",
        "capabilities": ["docs.write"],
        "sends": [
            {"to": "reviewer", "types": ["review.request", "review.*"]},
            {"topic": "docs.>", "types": ["docs.published"]},
        ],
    },
    "reviewer": {"role": "reviewer", "labels": {"team": "quality"}, "capabilities": ["docs.review", "code.review"]},
    "checker": {"role": "reviewer", "labels": {"team": "quality"}, "capabilities": ["docs.review"]},
    "vault": {"role": "vault", "capabilities": ["docs.review"]},
}
SCHEMAS = {"finding.raised": {}, "task.completed": {}}


def ask(
    payload: dict[str, Any],
    allowed: dict[str, set[str]],
    *,
    agents: dict[str, Any] = AGENTS,
    asker: str = "writer",
) -> tuple[Any, list[tuple[str, str]]]:
    """The reply, and what policy was asked."""
    config = msgspec.convert({"digest": "", "revision": "", "agents": agents, "schemas": SCHEMAS}, Config)
    registry = Registry()
    for name, hello in (("reviewer-0", {}), ("reviewer-1", None), ("reviewer-2", {})):
        registry.register(name, InstanceEntry(agent="reviewer")).hello = hello
    asked: list[tuple[str, str]] = []

    async def may_send(agent: str, type_: str) -> bool:
        asked.append((agent, type_))
        return type_ in allowed.get(agent, ())

    reply = asyncio.run(find_agents(payload, asker, config, registry, may_send))
    reply = msgspec.json.decode(msgspec.json.encode(reply))
    jsonschema_rs.Draft202012Validator(dict(own_schemas()["capability.query.reply"])).validate(reply)
    return reply, asked


EVERYBODY = {name: {"review.request", "finding.raised"} for name in AGENTS}


def found(payload: dict[str, Any], allowed: dict[str, set[str]] | None = None) -> list[str]:
    return [agent["agent"] for agent in ask(payload, EVERYBODY if allowed is None else allowed)[0]["agents"]]


def test_an_agent_is_told_with_what_it_can_do_and_what_it_may_be_sent() -> None:
    reply, _ = ask({"capabilities": ["code.review"]}, EVERYBODY)
    assert reply == {
        "agents": [
            {
                "agent": "reviewer",
                "role": "reviewer",
                "labels": {"team": "quality"},
                "capabilities": ["docs.review", "code.review"],
                "ready": 2,
                "types": ["finding.raised", "review.request"],
            }
        ],
        "complete": True,
    }


def test_all_of_the_query_has_to_match() -> None:
    assert found({}) == ["checker", "reviewer", "vault", "writer"]
    assert found({"capabilities": ["docs.review"]}) == ["checker", "reviewer", "vault"]
    assert found({"capabilities": ["docs.review", "code.review"]}) == ["reviewer"]
    assert found({"role": "reviewer"}) == ["checker", "reviewer"]
    assert found({"labels": {"team": "quality"}, "capabilities": ["code.review"]}) == ["reviewer"]
    assert found({"labels": {"team": "docs"}}) == []


def test_who_may_not_be_sent_anything_does_not_exist() -> None:
    assert found({"capabilities": ["docs.review"]}, {"checker": {"finding.raised"}}) == ["checker"]
    assert found({}, {}) == []


def test_policy_is_asked_about_types_that_the_asker_could_mean_and_only_for_agents_that_match() -> None:
    _, asked = ask({"role": "vault"}, EVERYBODY)
    assert asked == [("vault", type_) for type_ in ("docs.published", "finding.raised", "review.request")]
    _, asked = ask({"role": "vault"}, EVERYBODY, asker="checker")
    assert asked == [("vault", "finding.raised")]


def test_an_answer_that_would_take_too_many_questions_says_that_it_is_not_complete() -> None:
    many = {**AGENTS, **{f"other-{n:03}": {"capabilities": ["x"]} for n in range(100)}}
    reply, asked = ask({"capabilities": ["x"]}, {n: {"finding.raised"} for n in many}, agents=many)
    assert not reply["complete"]
    assert len(asked) <= MAX_QUESTIONS
    assert len(reply["agents"]) == MAX_QUESTIONS // 3
