"""The chain of engines, with engines that do as they are told, and its verdicts over the real thing."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy.reads import Reads
from reconciler.router.cache import compile_keys
from reconciler.router.config import AgentEntry, Config, Grant, InstanceEntry, PolicyRules
from reconciler.router.engine import Engine, show_face
from reconciler.router.grants import GrantsEngine
from reconciler.router.message import Deny, Message, parse_message
from reconciler.router.policy import Addressee, Judge
from reconciler.router.registry import Instance
from reconciler.router.rules import Rules
from reconciler.router.topics import TopicIndex
from tests.router.fleet import Fleet

AGENTS = {
    "writer": AgentEntry(
        role="writer",
        labels={"team": "docs"},
        capabilities=("docs.write",),
        trust=0.5,
        sends=(Grant(to="reviewer", types=("review.note",)),),
    ),
    "reviewer": AgentEntry(role="reviewer", capabilities=("docs.review",)),
}
BODY = b'{"id":"m","type":"review.note","pattern":"event","to":"reviewer","sensitivity":"public"}'
SENDER = Instance("writer-0", InstanceEntry(agent="writer"))
REVIEWER = Addressee(kind="agent", name="reviewer")
READS = Reads(paths=(("sender", "agent"),))
ANSWER = Decision(allow=True, reasons=("because",), engine="embedded", revision="r1", cached=True)


class ToldEngine:
    """Answers what it is told, or cannot answer; keeps the questions."""

    fault = ""

    def __init__(
        self,
        name: str,
        allow: bool | None,
        revision: str = "r1",
        because: str = "because",
        *,
        kind: str = "message",
        reads: Reads | None = READS,
    ) -> None:
        self.name = name
        self.kind = kind
        self.reads = reads
        self.because = because
        self.revision = revision
        self.allow = allow
        self.questions: list[dict[str, Any]] = []

    @property
    def is_ready(self) -> bool:
        return self.allow is not None

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        assert entry_point == self.kind
        self.questions.append(question)
        if self.allow is None:
            raise PolicyEngineError("told so")
        return Decision(allow=self.allow, reasons=(self.because,), engine=self.name, revision=self.revision)

    async def close(self) -> None:
        pass


def rules(engines: Sequence[Engine], **policy: Any) -> Rules:
    config = Config(digest="c", revision="r", rules=PolicyRules(**policy), agents=AGENTS)
    faces = {name: show_face(agent) for name, agent in AGENTS.items()}
    reads = engines[0].reads if engines else None
    return Rules(
        config=config,
        validators={},
        topics=TopicIndex(()),
        engines=engines,
        faces=faces,
        keys=compile_keys(engines[0], reads, faces, config.rules) if reads else None,
    )


def message() -> Message:
    parsed = parse_message(BODY)
    assert isinstance(parsed, Message)
    return parsed


def check(judge: Judge, rules_: Rules, addressee: Addressee = REVIEWER) -> Decision | Deny:
    return asyncio.run(judge.check(rules_, SENDER, addressee, message()))


def decide_now(judge: Judge, rules_: Rules, addressee: Addressee = REVIEWER) -> Decision | Deny | None:
    return judge.decide_now(rules_, SENDER, addressee, message())


def test_the_question_holds_what_a_policy_may_read_and_nothing_else() -> None:
    engine = ToldEngine("embedded", True)
    check(Judge(lambda: None), rules([engine]))
    (asked,) = engine.questions
    time_ = asked.pop("time")
    assert len(time_) == 20
    assert time_.endswith(":00Z")
    assert asked == {
        "sender": {
            "agent": "writer",
            "instance": "writer-0",
            "role": "writer",
            "labels": {"team": "docs"},
            "capabilities": ["docs.write"],
            "trust": 0.5,
        },
        "recipient": {
            "kind": "agent",
            "name": "reviewer",
            "role": "reviewer",
            "labels": {},
            "capabilities": ["docs.review"],
        },
        "message": {"type": "review.note", "pattern": "event", "size_bytes": len(BODY), "sensitivity": "public"},
        "grants": {"sends": [{"to": "reviewer", "types": ["review.note"]}]},
    }


def test_an_unknown_recipient_is_asked_of_policy_like_any_other() -> None:
    engine = ToldEngine("embedded", True)
    denied = check(Judge(lambda: None), rules([engine]), Addressee(kind="agent", name="ghost", is_known=False))
    assert isinstance(denied, Deny)
    assert (denied.code, denied.private_reason) == ("unknown_or_forbidden_recipient", "there is no such recipient")
    assert engine.questions[0]["recipient"] == {
        "kind": "agent",
        "name": "ghost",
        "role": "",
        "labels": {},
        "capabilities": [],
    }


def test_a_denial_of_the_first_engine_is_final() -> None:
    second = ToldEngine("builtin", True)
    denied = check(Judge(lambda: None), rules([ToldEngine("embedded", False), second]))
    assert isinstance(denied, Deny)
    assert (denied.engine, denied.private_reason) == ("embedded", "because")
    assert "because" not in denied.reason
    assert second.questions == []


def test_builtin_answers_for_an_engine_that_cannot_and_control_is_told_once() -> None:
    told: list[int] = []
    judge, first = Judge(lambda: told.append(1)), ToldEngine("embedded", None)
    chain = rules([first, GrantsEngine("r1")])
    for _ in range(3):
        decision = check(judge, chain)
        assert isinstance(decision, Decision)
        assert decision.engine == "builtin"
    assert (judge.is_falling_back, len(told)) == (True, 1)
    first.allow = True
    check(judge, chain)
    assert (judge.is_falling_back, len(told)) == (False, 2)


def test_without_a_last_resort_nobody_answers() -> None:
    chain = rules([ToldEngine("embedded", None), GrantsEngine("r1")], last_resort="deny")
    denied = check(Judge(lambda: None), chain)
    assert isinstance(denied, Deny)
    assert (denied.code, denied.retry_after_s) == ("policy_unavailable", 1)


def test_builtin_as_the_main_engine_needs_no_last_resort() -> None:
    assert isinstance(check(Judge(lambda: None), rules([GrantsEngine("r")], last_resort="deny")), Decision)


def test_no_engine_at_all_is_a_denial() -> None:
    assert isinstance(check(Judge(lambda: None), rules([])), Deny)


def test_allow_cross_agent_false_is_above_every_engine() -> None:
    engine = ToldEngine("embedded", True)
    for addressee in (REVIEWER, Addressee(kind="topic", name="docs.new")):
        assert isinstance(check(Judge(lambda: None), rules([engine], allow_cross_agent=False), addressee), Deny)
    assert engine.questions == []
    hub = Addressee(kind="hub", name="hub")
    assert isinstance(check(Judge(lambda: None), rules([engine], allow_cross_agent=False), hub), Decision)


def test_only_what_an_engine_must_be_asked_has_to_be_waited_for() -> None:
    judge, engine = Judge(lambda: None), ToldEngine("embedded", True)
    assert decide_now(judge, rules([engine])) is None
    assert isinstance(decide_now(judge, rules([engine], allow_cross_agent=False)), Deny)
    assert decide_now(judge, rules([GrantsEngine("r")])) == Decision(allow=True, engine="builtin", revision="r")
    assert decide_now(judge, rules([])) is None
    check(judge, rules([engine]))
    assert decide_now(judge, rules([engine])) == ANSWER
    assert len(engine.questions) == 1


@pytest.mark.parametrize("allow", [True, False])
def test_an_answer_says_when_it_was_given_and_says_the_same_when_it_is_remembered(allow: bool) -> None:
    clock = [1_760_000_000.25]
    judge, chain = Judge(lambda: None, lambda: clock[0]), rules([ToldEngine("embedded", allow)])
    fresh = check(judge, chain)
    clock[0] += 3600
    remembered = decide_now(judge, chain)
    assert isinstance(remembered, type(fresh))
    assert [(a.cached, a.decided_at) for a in (fresh, remembered)] == [
        (False, 1_760_000_000.25),
        (True, 1_760_000_000.25),
    ]


def test_what_was_remembered_is_given_while_no_engine_can_answer() -> None:
    judge, engine = Judge(lambda: None), ToldEngine("embedded", True)
    chain = rules([engine, GrantsEngine("r1")])
    check(judge, chain)
    engine.allow = None
    assert decide_now(judge, chain) == ANSWER
    assert check(judge, chain) == ANSWER
    assert judge.is_falling_back


def test_what_a_last_resort_says_is_not_remembered() -> None:
    judge, engine = Judge(lambda: None), ToldEngine("embedded", None)
    chain = rules([engine, GrantsEngine("r1")])
    assert check(judge, chain) == Decision(allow=True, engine="builtin", revision="r1")
    assert decide_now(judge, chain) is None
    engine.allow = False
    assert isinstance(check(judge, chain), Deny)
    assert isinstance(decide_now(judge, chain), Deny)


def test_the_answer_of_another_engine_of_the_revision_is_remembered() -> None:
    judge = Judge(lambda: None)
    chain = rules([ToldEngine("opa", None), ToldEngine("embedded", True), GrantsEngine("r1")])
    check(judge, chain)
    assert decide_now(judge, chain) == ANSWER


def test_a_recovery_is_seen_where_everything_is_remembered() -> None:
    told: list[bool] = []
    judge = Judge(lambda: told.append(judge.is_falling_back))
    engine = ToldEngine("embedded", True)
    chain = rules([engine])
    check(judge, chain)
    engine.allow = None
    check(judge, chain)
    decide_now(judge, chain)
    assert told == [True]
    engine.allow = True
    decide_now(judge, chain)
    assert told == [True, False]


def test_a_denial_because_the_evaluation_failed_is_not_remembered() -> None:
    judge = Judge(lambda: None)
    engine = ToldEngine("embedded", False, because="data.hub.message.decision failed: out of luck (eval_error)")
    assert isinstance(check(judge, rules([engine])), Deny)
    assert decide_now(judge, rules([engine])) is None


@pytest.mark.parametrize("fields", [{"to": "reviewer"}, {"topic": "docs.new"}])
def test_an_allowed_message_has_a_row_that_says_who_allowed_it(fleet: Fleet, fields: dict[str, Any]) -> None:
    writer, _ = fleet.register("writer-0"), fleet.register("reviewer-0")
    type_ = "docs.published" if "topic" in fields else "review.note"
    for _ in range(2):
        assert writer.send(type_, **fields).status == 202
    rows = fleet.rows("type=?", type_)
    assert [(r["verdict"], r["engine"], r["policy_revision"]) for r in rows] == [("allow", "builtin", "builtin")] * 2
    assert rows[1]["cached"] == 1
