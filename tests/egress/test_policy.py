"""Who is asked about a request to a model, what is remembered, and what happens where nobody can answer."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from reconciler.core.decision import Decision
from reconciler.egress.body import Asked
from reconciler.egress.budget import Budgets, Spent
from reconciler.egress.config import (
    AgentEntry,
    Config,
    Costs,
    InstanceEntry,
    OpaEntry,
    PolicyEntry,
    PolicyRules,
    ProviderEntry,
    RefusedError,
    RouteEntry,
)
from reconciler.egress.instance import Instance
from reconciler.egress.policy import Policy
from reconciler.egress.question import write_question
from reconciler.egress.route import Way
from reconciler.policy.reads import Reads
from reconciler.router.engines import StartEngine
from tests.router.test_policy import ToldEngine

NOW = 1_795_000_000.0
READS = Reads(paths=(("agent", "name"), ("sensitivity",)))


def config(digest: str = "p1", **rules: Any) -> Config:
    return Config(
        digest=f"c-{digest}",
        policy=PolicyEntry(digest=digest, modules={}),
        rules=PolicyRules(**{"engines": ("opa", "embedded", "builtin"), "last_resort": "deny", **rules}),
        opa=OpaEntry(),
    )


def question(sensitivity: str = "internal") -> dict[str, Any]:
    return {
        "agent": {"name": "writer"},
        "provider": {"name": "gpu", "exposure": "public"},
        "sensitivity": sensitivity,
    }


def told(name: str, allow: bool | None, revision: str = "p1", **more: Any) -> ToldEngine:
    return ToldEngine(name, allow, revision, kind="llm", **{"reads": READS, **more})


def starts(*engines: ToldEngine) -> Mapping[Any, StartEngine]:
    """Starts each of them when it is asked for."""

    def starter(engine: ToldEngine) -> StartEngine:
        async def start(_config: object, _policy: object, _before: object) -> ToldEngine:
            return engine

        return start

    return {engine.name: starter(engine) for engine in engines}


def run(policy: Policy, *questions: dict[str, Any], using: Config | None = None) -> list[Decision]:
    async def scenario() -> list[Decision]:
        used = using or config()
        await policy.use(used, await policy.prepare(used))
        return [await policy.decide(one) for one in questions]

    return asyncio.run(scenario())


def said(decision: Decision) -> tuple[bool, str, bool]:
    return decision.allow, decision.engine, decision.cached


def policy(*engines: ToldEngine) -> Policy:
    return Policy(starts(*engines), lambda: NOW)


def test_the_first_engine_that_can_answer_does_and_a_denial_is_an_answer() -> None:
    assert said(run(policy(told("opa", None), told("embedded", True)), question())[0]) == (True, "embedded", False)
    assert said(run(policy(told("opa", False), told("embedded", True)), question())[0]) == (False, "opa", False)


def test_an_answer_is_remembered_by_what_the_policy_reads() -> None:
    engine = told("embedded", True)
    other = {**question(), "time": "2026-11-21T08:15:00Z"}
    answers = run(policy(engine), question(), other, question("public"), using=config(engines=("embedded",)))
    assert [answer.cached for answer in answers] == [False, True, False]
    assert len(engine.questions) == 2


@pytest.mark.parametrize("reads", [None, Reads(obstacle="it uses input as a whole")])
def test_nothing_is_remembered_where_nobody_can_tell_what_is_read(reads: Reads | None) -> None:
    engine = told("embedded", True, reads=reads)
    answers = run(policy(engine), question(), question(), using=config(engines=("embedded",)))
    assert [answer.cached for answer in answers] == [False, False]


def test_an_answer_of_another_policy_is_not_given_again() -> None:
    first, second = told("embedded", True), told("embedded", False, "p2")
    engines = [first, second]

    async def start(_config: object, wanted: PolicyEntry, _before: object) -> ToldEngine:
        return next(engine for engine in engines if engine.revision == wanted.digest)

    async def scenario() -> list[Decision]:
        asked = Policy({"embedded": start}, lambda: NOW)
        answers = []
        for digest in ("p1", "p2", "p1"):
            used = config(digest, engines=("embedded",))
            await asked.use(used, await asked.prepare(used))
            answers.append(await asked.decide(question()))
        return answers

    found = asyncio.run(scenario())
    assert [(d.allow, d.revision, d.cached) for d in found] == [
        (True, "p1", False),
        (False, "p2", False),
        (True, "p1", True),
    ]


def test_where_nobody_can_answer_the_last_resort_says_what_then() -> None:
    denied = run(policy(told("opa", None), told("embedded", None)), question())[0]
    assert said(denied) == (False, "none", False)
    assert denied.reasons == ("no policy engine can answer now; ask again later",)
    resort = config(last_resort="builtin")
    answers = run(policy(told("opa", None)), question(), question("confidential"), question(), using=resort)
    assert [said(answer) for answer in answers] == [
        (True, "builtin", False),
        (False, "builtin", False),
        (True, "builtin", False),
    ]


def test_what_was_remembered_is_given_while_no_engine_can_answer() -> None:
    engine = told("embedded", True)

    def fail() -> dict[str, Any]:
        engine.allow = None
        return question()

    asked = policy(engine)
    assert said(run(asked, question())[0]) == (True, "embedded", False)
    assert said(run(asked, fail())[0]) == (True, "embedded", True)


def test_without_a_policy_for_models_the_built_in_rules_answer() -> None:
    async def none(_config: object, _policy: object, _before: object) -> None:
        return None

    asked = Policy({"opa": none, "embedded": none}, lambda: NOW)
    answers = run(asked, question(), question("confidential"), question(), using=config(last_resort="deny"))
    assert [said(answer) for answer in answers] == [
        (True, "builtin", False),
        (False, "builtin", False),
        (True, "builtin", True),
    ]
    assert (asked.engine, asked.fault) == ("builtin", "")


def test_a_policy_that_cannot_be_started_changes_nothing() -> None:
    engine = told("embedded", True)
    asked = policy(engine)
    run(asked, using=config(engines=("embedded",)))

    async def refuse(_config: object, _policy: object, _before: object) -> None:
        raise RefusedError("policy: it does not compile")

    asked._start = {"embedded": refuse}
    with pytest.raises(RefusedError, match="does not compile"):
        run(asked, using=config("p2", engines=("embedded",)))
    assert said(asyncio.run(asked.decide(question()))) == (True, "embedded", False)


def test_opa_must_be_said_where_it_is_listed() -> None:
    with pytest.raises(RefusedError, match="opa needs the member opa"):
        run(policy(), using=Config(digest="d", rules=PolicyRules(engines=("opa",))))


# --- the question ---


CONFIG = Config(
    digest="c",
    agents={"writer": AgentEntry(role="reporter", labels={"team": "docs"}, capabilities=("a", "b"), trust=0.5)},
)


ENTRY = InstanceEntry(agent="writer", route=RouteEntry(provider="cloud", model="opus"), sensitivity="internal")


def written(entry: InstanceEntry, budgets: Budgets, run: str | None) -> dict[str, Any]:
    costs = Costs(input=15, output=75)
    provider = ProviderEntry(type="anthropic", url="https://x", exposure="public", models={"opus": costs})
    return write_question(
        CONFIG,
        Instance("writer-0", entry),
        Way("cloud", provider, "opus"),
        Asked("opus", is_stream=True, tokens=4096, content=b"{}"),
        api="anthropic",
        work=(run, "report" if run else None),
        budgets=budgets,
        minute="2026-11-21T08:15:00Z",
    )


def test_the_question_holds_what_a_policy_may_read() -> None:
    budgets = Budgets()
    budgets.by_agent["writer"] = Spent(requests=2, tokens=900, cost=0.25, held_tokens=100, held_cost=0.05)
    budgets.by_run["r1"] = Spent(requests=1, tokens=300, cost=0.1)
    assert written(ENTRY, budgets, "r1") == {
        "agent": {
            "name": "writer",
            "instance": "writer-0",
            "role": "reporter",
            "labels": {"team": "docs"},
            "capabilities": ["a", "b"],
            "trust": 0.5,
        },
        "task": {"name": "report", "run": "r1"},
        "provider": {"name": "cloud", "type": "anthropic", "exposure": "public"},
        "model": {"name": "opus", "cost": {"input": 15, "output": 75}},
        "request": {"api": "anthropic", "stream": True, "tokens": 4096},
        "sensitivity": "internal",
        "used": {
            "today": {"requests": 2, "tokens": 1000, "cost": 0.3},
            "task": {"requests": 1, "tokens": 300, "cost": 0.1},
        },
        "time": "2026-11-21T08:15:00Z",
    }


def test_a_request_without_a_task_an_unknown_agent_and_a_delegate() -> None:
    found = written(InstanceEntry(agent="reader", capabilities=("a",)), Budgets(), None)
    assert (found["task"], found["used"]["task"]) == (None, None)
    assert (found["agent"]["role"], found["agent"]["capabilities"]) == ("", ["a"])
    assert written(replace(ENTRY, capabilities=("b",)), Budgets(), None)["agent"]["capabilities"] == ["b"]
