"""Remembered decisions: what shares an entry, what does not, and that nobody can tell them from fresh ones."""

import asyncio
import json
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.decision import Decision
from reconciler.policy.link import WorkerLink
from reconciler.policy.reads import Path, Reads, reads_from_json
from reconciler.router.cache import Decisions, Key, Keys, compile_keys
from reconciler.router.config import AgentEntry, Config, Grant, InstanceEntry, OpaEntry, PolicyEntry, PolicyRules
from reconciler.router.engine import Engine, show_face
from reconciler.router.grants import GrantsEngine
from reconciler.router.message import Deny, Envelope, Message, Pattern, Sensitivity, problem_body
from reconciler.router.policy import Addressee, Judge
from reconciler.router.registry import Instance
from reconciler.router.rules import Rules, compile_rules, initial_rules
from reconciler.router.topics import TopicIndex
from tests.policy.random_rego import DATA, MINUTES, PATTERNS, SENSITIVITIES, SIZES, TYPES, fleets, policies

EPOCH_S = {minute: 1_795_165_200.0 + 60 * nth for nth, minute in enumerate(MINUTES)}


class ToldEngine:
    """Answers what it is told; counts how often it is asked."""

    is_ready = True
    fault = ""

    def __init__(
        self, reads: Reads | None, *, allow: bool = True, revision: str = "r1", name: str = "embedded"
    ) -> None:
        self.name = name
        self.reads = reads
        self.revision = revision
        self.asked = 0
        self._answer = Decision(allow=allow, engine=self.name, revision=revision)

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        self.asked += 1
        return self._answer

    async def close(self) -> None:
        pass


class WorkerEngine:
    """Asks a policy worker, and waits for it; counts how often."""

    name = "embedded"
    is_ready = True
    fault = ""

    def __init__(self, link: WorkerLink, text: str) -> None:
        reply = link.ask("load", 10, modules={"policies/message.rego": text}, data=DATA)
        assert "error" not in reply, (reply["error"], text)
        self.revision = "r1"
        self.reads: Reads | None = reads_from_json(reply["reads"]["message"])
        self.asked = 0
        self._link = link

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        self.asked += 1
        reply = self._link.ask("decide", 5, kind=entry_point, question=question)
        return Decision(allow=reply["allow"], reasons=tuple(reply["reasons"]), engine=self.name, revision="r1")

    async def close(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Question:
    """One message of an agent that has an entry, or of one that has none."""

    agent: str
    instance: str
    addressee: Addressee
    type: str
    pattern: Pattern
    sensitivity: Sensitivity
    size_bytes: int
    minute: str

    def seen_by(self, rules: Rules) -> dict[str, Any]:
        """What a policy would be asked."""
        own = show_face(rules.config.agents[self.agent])
        is_agent = self.addressee.kind == "agent"
        other = show_face(rules.config.agents.get(self.addressee.name, AgentEntry()) if is_agent else AgentEntry())
        return {
            "sender": {"agent": self.agent, "instance": self.instance, **own.sender},
            "recipient": {"kind": self.addressee.kind, "name": self.addressee.name, **other.recipient},
            "message": {
                "type": self.type,
                "pattern": self.pattern,
                "size_bytes": self.size_bytes,
                "sensitivity": self.sensitivity,
            },
            "grants": own.grants,
            "time": self.minute,
        }

    def message(self) -> Message:
        envelope = Envelope(id="m", type=self.type, pattern=self.pattern, to="b", sensitivity=self.sensitivity)
        return Message(envelope, None, self.size_bytes)


CHOICES: dict[str, Sequence[Any]] = {
    "agent": ["a", "b", "u", "v"],
    "instance": ["r-0", "r-1"],
    "addressee": [
        Addressee(kind="agent", name="a"),
        Addressee(kind="agent", name="b"),
        Addressee(kind="agent", name="ghost", is_known=False),
        Addressee(kind="topic", name="a"),
        Addressee(kind="topic", name="docs"),
        Addressee(kind="hub", name="hub"),
    ],
    "type": TYPES,
    "pattern": PATTERNS,
    "sensitivity": SENSITIVITIES,
    "size_bytes": SIZES,
    "minute": MINUTES,
}
QUESTIONS = st.builds(Question, **{name: st.sampled_from(values) for name, values in CHOICES.items()})


def neighbours(question: Question) -> list[Question]:
    """The question, and all that differ from it in one value."""
    return [question] + [
        replace(question, **{name: value})
        for name, values in CHOICES.items()
        for value in values
        if value != getattr(question, name)
    ]


HUMBLE = Question(
    agent="a",
    instance="r-0",
    addressee=Addressee(kind="agent", name="b"),
    type="review.note",
    pattern="event",
    sensitivity="internal",
    size_bytes=100,
    minute=MINUTES[0],
)
HUB_ITSELF = Addressee(kind="hub", name="hub")
ALLOWED = Decision(allow=True, engine="embedded", revision="r1")


def make_key(keys: Keys, question: Question) -> Key:
    sender = Instance(question.instance, InstanceEntry(agent=question.agent))
    return keys.make(sender, question.addressee, question.message(), question.minute if keys.reads_time else None)


@pytest.fixture(scope="module")
def link() -> Iterator[WorkerLink]:
    found = WorkerLink(memory_bytes=2**28)
    yield found
    found.close()


def rules_of(engine: Engine, entries: dict[str, AgentEntry], **policy: Any) -> Rules:
    faces = {name: show_face(entry) for name, entry in entries.items()}
    config = Config(digest="c", revision="r", rules=PolicyRules(**policy), agents=entries)
    keys = compile_keys(engine, engine.reads, faces, config.rules) if engine.reads else None
    return Rules(config=config, validators={}, topics=TopicIndex(()), engines=[engine], faces=faces, keys=keys)


class Clock:
    """Tells the time of the question at hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(judge: Judge, clock: Clock, rules: Rules, question: Question) -> Decision | Deny:
    clock.now = EPOCH_S[question.minute]
    sender = Instance(question.instance, InstanceEntry(agent=question.agent))
    arguments = (rules, sender, question.addressee, question.message())
    return judge.decide_now(*arguments) or run(judge.check(*arguments))


def run(answering: Coroutine[Any, Any, Decision | Deny]) -> Decision | Deny:
    """What a coroutine returns that never waits."""
    try:
        answering.send(None)
    except StopIteration as stopped:
        found: Decision | Deny = stopped.value
        return found
    raise AssertionError("it waits")


def without_cached(answer: Decision | Deny) -> Decision | Deny:
    """But for whether it was remembered, and since when."""
    if isinstance(answer, Decision):
        return replace(answer, cached=False, decided_at=None)
    return msgspec.structs.replace(answer, cached=False, decided_at=None)


@given(text=policies(), fleets=fleets(), question=QUESTIONS)
@settings(max_examples=120)
def test_a_remembered_decision_is_the_fresh_one(
    link: WorkerLink, text: str, fleets: Sequence[dict[str, AgentEntry]], question: Question
) -> None:
    engine, clock = WorkerEngine(link, text), Clock()
    assert engine.reads is not None
    assert not engine.reads.obstacle
    remembering, forgetful = Judge(lambda: None, clock), Judge(lambda: None, clock)
    for entries in fleets:
        rules = rules_of(engine, entries)
        for asked in neighbours(question):
            fresh = ask(forgetful, clock, replace(rules, keys=None), asked)
            assert without_cached(ask(remembering, clock, rules, asked)) == without_cached(fresh), text


PATHS = [
    *(("sender", name) for name in ("agent", "instance", "role", "labels", "capabilities", "trust", "missing")),
    *(("sender", "labels", "team"), ("sender", "labels", "team", "deeper"), ("sender",), ("grants", "sends")),
    *(("recipient", name) for name in ("kind", "name", "role", "labels", "missing")),
    *(("recipient", "labels", "team"), ("recipient",), ("message",), ("time",), ("missing", "deeper")),
    *(("message", name) for name in ("type", "pattern", "sensitivity", "size_bytes", "missing")),
]


@given(
    paths=st.lists(st.sampled_from(PATHS), unique=True),
    fleets=fleets(),
    question=QUESTIONS.filter(lambda question: question.agent in "ab"),
)
@settings(max_examples=300)
def test_two_questions_share_an_entry_when_all_that_is_read_of_them_is_equal(
    paths: list[Path], fleets: Sequence[dict[str, AgentEntry]], question: Question
) -> None:
    engine = ToldEngine(Reads(paths=tuple(sorted(paths))))
    found: dict[Key, set[str]] = {}
    for entries in fleets:
        rules = rules_of(engine, entries)
        assert rules.keys is not None
        for asked in neighbours(question):
            if asked.agent in entries:
                key = make_key(rules.keys, asked)
                found.setdefault(key, set()).add(json.dumps([value_at(asked.seen_by(rules), path) for path in paths]))
    assert all(len(read) == 1 for read in found.values())
    assert len(set.union(*found.values())) == len(found)


def value_at(document: Any, path: Path) -> object:
    """The value, or as much of the path as leads to something, and that if it is no object."""
    for depth, name in enumerate(path):
        if not isinstance(document, dict):
            return [depth, document]
        if name not in document:
            return depth
        document = document[name]
    return {"found": document}


def test_an_answer_is_remembered_by_what_is_read_alone() -> None:
    engine, clock = ToldEngine(Reads(paths=(("sender", "role"),))), Clock()
    entries = {"a": AgentEntry(role="writer"), "b": AgentEntry(role="writer", trust=0.5), "c": AgentEntry(role="x")}
    rules, judge = rules_of(engine, entries), Judge(lambda: None, clock)
    first = ask(judge, clock, rules, HUMBLE)
    second = ask(
        judge, clock, rules, replace(HUMBLE, agent="b", instance="r-7", type="x.y", size_bytes=9, minute=MINUTES[1])
    )
    assert (first, second) == (ALLOWED, replace(ALLOWED, cached=True))
    assert engine.asked == 1
    assert ask(judge, clock, rules, replace(HUMBLE, agent="c")) == ALLOWED
    assert engine.asked == 2


def test_a_denial_is_remembered_too_and_the_sender_cannot_tell() -> None:
    engine, clock = ToldEngine(Reads(paths=(("message", "type"),)), allow=False), Clock()
    rules, judge = rules_of(engine, {"a": AgentEntry()}), Judge(lambda: None, clock)
    first, second = ask(judge, clock, rules, HUMBLE), ask(judge, clock, rules, HUMBLE)
    assert isinstance(first, Deny)
    assert isinstance(second, Deny)
    assert (first.cached, second.cached, engine.asked) == (False, True, 1)
    assert problem_body(first, "") == problem_body(second, "")


def test_an_unknown_recipient_is_denied_even_where_a_known_one_was_remembered_as_allowed() -> None:
    engine, clock = ToldEngine(Reads(paths=(("message", "type"),))), Clock()
    rules, judge = rules_of(engine, {"a": AgentEntry()}), Judge(lambda: None, clock)
    assert ask(judge, clock, rules, HUMBLE) == ALLOWED
    ghost = Addressee(kind="agent", name="ghost", is_known=False)
    denied = ask(judge, clock, rules, replace(HUMBLE, addressee=ghost))
    assert isinstance(denied, Deny)
    assert (denied.code, engine.asked) == ("unknown_or_forbidden_recipient", 1)


@pytest.mark.parametrize("reads", [None, Reads(obstacle="it uses input as a whole")])
def test_nothing_is_remembered_where_nobody_can_tell_what_is_read(reads: Reads | None) -> None:
    engine, clock = ToldEngine(reads), Clock()
    rules, judge = rules_of(engine, {"a": AgentEntry()}), Judge(lambda: None, clock)
    assert [ask(judge, clock, rules, HUMBLE) for _ in range(2)] == [ALLOWED, ALLOWED]
    assert engine.asked == 2


def test_nothing_is_remembered_without_entries() -> None:
    engine, clock = ToldEngine(Reads()), Clock()
    rules, judge = rules_of(engine, {"a": AgentEntry()}, cache_entries=0), Judge(lambda: None, clock)
    assert [ask(judge, clock, rules, HUMBLE) for _ in range(2)] == [ALLOWED, ALLOWED]


def test_another_revision_shares_nothing() -> None:
    first, second, clock = ToldEngine(Reads()), ToldEngine(Reads(), revision="r2"), Clock()
    judge = Judge(lambda: None, clock)
    for engine in (first, second):
        ask(judge, clock, rules_of(engine, {"a": AgentEntry()}), HUMBLE)
    assert (first.asked, second.asked) == (1, 1)


def test_a_swap_of_something_else_leaves_what_is_remembered_in_use() -> None:
    engine, clock = ToldEngine(Reads(paths=(("sender", "role"),))), Clock()
    judge = Judge(lambda: None, clock)
    ask(judge, clock, rules_of(engine, {"a": AgentEntry()}), HUMBLE)
    answer = ask(judge, clock, rules_of(engine, {"a": AgentEntry(trust=0.1), "z": AgentEntry()}), HUMBLE)
    assert answer == replace(ALLOWED, cached=True)


def test_what_the_hub_was_allowed_is_no_answer_for_others_once_agents_may_message_only_the_hub() -> None:
    engine, clock = ToldEngine(Reads()), Clock()
    judge = Judge(lambda: None, clock)
    assert isinstance(ask(judge, clock, rules_of(engine, {"a": AgentEntry()}), HUMBLE), Decision)
    rules = rules_of(engine, {"a": AgentEntry()}, allow_cross_agent=False)
    for _ in range(2):
        assert isinstance(ask(judge, clock, rules, replace(HUMBLE, addressee=HUB_ITSELF)), Decision)
        assert isinstance(ask(judge, clock, rules, HUMBLE), Deny)


def test_beyond_the_limit_the_oldest_goes() -> None:
    decisions = Decisions()
    for number in range(5):
        decisions.put((number,), ALLOWED, 3)
    assert len(decisions) == 3
    assert [decisions.get((number,)) for number in range(5)] == [None, None, ALLOWED, ALLOWED, ALLOWED]


def test_builtin_as_the_main_engine_is_remembered_by_what_it_reads() -> None:
    clock, judge = Clock(), Judge(lambda: None)
    entries = {"a": AgentEntry(sends=(Grant(to="b", types=("review.*",)),)), "b": AgentEntry()}
    rules = rules_of(GrantsEngine("r1"), entries)
    first = ask(judge, clock, rules, HUMBLE)
    assert first == Decision(allow=True, engine="builtin", revision="r1")
    assert ask(judge, clock, rules, replace(HUMBLE, size_bytes=5, instance="r-9")) == replace(first, cached=True)
    assert isinstance(ask(judge, clock, rules, replace(HUMBLE, type="other.type")), Deny)


def test_a_policy_and_builtin_of_one_revision_share_nothing() -> None:
    paths = GrantsEngine("r1").reads
    clock, judge = Clock(), Judge(lambda: None)
    ask(judge, clock, rules_of(ToldEngine(paths), {"a": AgentEntry(), "b": AgentEntry()}), HUMBLE)
    assert isinstance(
        ask(judge, clock, rules_of(GrantsEngine("r1"), {"a": AgentEntry(), "b": AgentEntry()}), HUMBLE), Deny
    )


def test_where_only_opa_is_listed_a_worker_is_started_once_to_say_what_is_read() -> None:
    started: list[str] = []

    class Reader(ToldEngine):
        async def close(self) -> None:
            started.append("closed")

    async def start_opa(_config: Config, policy: PolicyEntry, _before: Engine | None) -> Engine:
        return ToldEngine(None, name="opa", revision=policy.digest)

    async def start_embedded(_config: Config, policy: PolicyEntry, _before: Engine | None) -> Engine:
        started.append(policy.digest)
        return Reader(Reads(paths=(("message", "type"),)))

    async def scenario() -> None:
        rules = initial_rules()
        for revision in ("r1", "r1", "r2"):
            policy = PolicyEntry(digest=revision, modules={})
            listed = PolicyRules(engines=("opa", "builtin"))
            config = Config(digest="c", revision="r", rules=listed, policy=policy, opa=OpaEntry())
            rules = await compile_rules(config, rules, {"opa": start_opa, "embedded": start_embedded})
            assert rules.keys is not None
            assert [engine.name for engine in rules.engines] == ["opa", "builtin"]

    asyncio.run(scenario())
    assert started == ["r1", "closed", "r2", "closed"]
