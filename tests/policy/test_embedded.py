"""The embedded engine: one bundle in force, whatever happens to its worker."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy.embedded import EmbeddedEngine, EngineLimits
from reconciler.ports import PolicyBundle
from tests.policy.example import bundle_of, bundle_with_tests, example_bundle, message_bundle, module

POLICY = """
decision := {"allow": true, "reasons": ["fine"]} if input.ask == "allow"
decision := {"allow": false, "reasons": deny} if input.ask == "deny"
decision := {"allow": true} if input.ask == "twice"
decision := {"allow": false} if input.ask == "twice"
decision := {"allow": 1 / input.zero == 1} if input.ask == "fault"
decision := {"allow": "yes"} if input.ask == "text"
decision := [true] if input.ask == "list"
decision := {"allow": true, "reasons": {input.said}} if input.ask == "echo"
decision := {"allow": false} if input.ask == "silent"
decision := {"allow": count([1 | some a in r; some b in r; some c in r; a + b + c < 0]) > 0} if input.ask == "endless"
decision := {"allow": count(numbers.range(1, 9000000)) > 0} if input.ask == "hog"
deny contains "b"
deny contains "a"
r := numbers.range(1, 9999)
"""

LIMITS = EngineLimits(decide_s=0.5, memory_bytes=2**27)


@pytest.fixture
def engine() -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(LIMITS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedEngine]:
    """With `POLICY` in force, for tests that leave it so."""
    engine = EmbeddedEngine(LIMITS)
    engine.activate(message_bundle(POLICY))
    yield engine
    engine.close()


def ask(engine: EmbeddedEngine, what: str, **more: object) -> Decision:
    return engine.decide("message", {"ask": what, **more})


def worker_pid(engine: EmbeddedEngine) -> int:
    pid = engine.worker_pid
    assert pid is not None
    return pid


def test_a_decision_has_its_reasons_and_its_revision(shared: EmbeddedEngine) -> None:
    revision = shared.revision
    assert revision == message_bundle(POLICY).digest
    assert ask(shared, "allow") == Decision(allow=True, reasons=("fine",), engine="embedded", revision=revision)
    assert ask(shared, "deny") == Decision(allow=False, reasons=("a", "b"), engine="embedded", revision=revision)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nothing", "data.hub.message.decision is undefined for this question"),
        ("twice", "data.hub.message.decision failed: complete rules must not produce multiple outputs"),
        ("fault", "data.hub.message.decision failed: divide by zero"),
        ("text", "data.hub.message.decision has no boolean 'allow'"),
        ("list", "data.hub.message.decision has no boolean 'allow'"),
        ("silent", "the policy gives no reason"),
    ],
)
def test_no_clear_yes_is_a_denial_at_the_revision(shared: EmbeddedEngine, what: str, reason: str) -> None:
    decision = ask(shared, what, zero=0)
    assert (decision.allow, decision.revision) == (False, shared.revision)
    assert decision.reasons[0].startswith(reason)


def test_an_endless_rule_is_killed_and_the_bundle_stays_in_force(shared: EmbeddedEngine) -> None:
    before = worker_pid(shared)
    said = r"data\.hub\.message\.decision did not end within 0\.5s; bound what it walks through"
    with pytest.raises(PolicyEngineError, match=said):
        ask(shared, "endless")
    assert ask(shared, "allow").allow
    assert worker_pid(shared) != before


def test_a_memory_hog_dies_and_the_bundle_stays_in_force(shared: EmbeddedEngine) -> None:
    with pytest.raises(PolicyEngineError, match=r"data\.hub\.message\.decision (crashed the engine|did not end)"):
        ask(shared, "hog")
    assert ask(shared, "allow").allow


def test_a_worker_killed_in_the_middle_of_a_decision_is_replaced(shared: EmbeddedEngine) -> None:
    ask(shared, "allow")
    killer = threading.Timer(0.1, os.kill, (worker_pid(shared), signal.SIGKILL))
    killer.start()
    with pytest.raises(PolicyEngineError, match="status -9"):
        ask(shared, "endless")
    killer.join()
    assert ask(shared, "allow").revision == shared.revision


def test_a_worker_killed_between_decisions_is_not_even_noticed(shared: EmbeddedEngine) -> None:
    ask(shared, "allow")
    pid = worker_pid(shared)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ask(shared, "allow").allow


@pytest.mark.parametrize("said", ['", "allow": false', "\0", "\\", "é😀\n\t", "\x1f\x7f", "\\u00e9", '"', "a" * 400])
def test_texts_come_through_as_they_are(shared: EmbeddedEngine, said: str) -> None:
    assert ask(shared, "echo", said=said).reasons == (said,)


@pytest.mark.parametrize("said", [2**70, float("nan"), "\ud800", {1, 2}, [[[[]]]]])
def test_what_cannot_be_asked_is_denied_and_the_worker_lives(shared: EmbeddedEngine, said: object) -> None:
    ask(shared, "allow")
    before = worker_pid(shared)
    decision = ask(shared, "echo", said=said)
    assert decision.allow == (said == [[[[]]]])
    assert worker_pid(shared) == before


def test_long_reasons_are_cut(shared: EmbeddedEngine) -> None:
    (reason,) = ask(shared, "echo", said="x" * 10_000).reasons
    assert len(reason) == 500
    assert reason.endswith("…")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def example() -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine()
    engine.activate(example_bundle())
    yield engine
    engine.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["message", "task", "delegation", "admission"]), question=st.dictionaries(st.text(), JSON))
def test_any_json_is_answered_and_only_a_known_question_is_allowed(
    example: EmbeddedEngine, kind: str, question: dict[str, object]
) -> None:
    decision = example.decide(kind, question)
    assert not decision.allow
    assert decision.reasons
    assert decision.revision == example.revision


def test_nothing_is_decided_without_a_bundle(engine: EmbeddedEngine) -> None:
    with pytest.raises(PolicyEngineError, match="no bundle is active"):
        ask(engine, "allow")


def test_a_bundle_that_cannot_be_loaded_leaves_the_last_good_one(engine: EmbeddedEngine) -> None:
    good = message_bundle('decision := {"allow": true}')
    engine.activate(good)
    broken = PolicyBundle(modules={"a.rego": "package"}, data={"hub": {"revision": "x"}}, digest="x")
    with pytest.raises(PolicyEngineError, match="do not compile"):
        engine.activate(broken)
    misnamed = PolicyBundle(modules={}, data={"hub": {"revision": "y"}}, digest="z")
    with pytest.raises(PolicyEngineError, match="z calls itself y"):
        engine.activate(misnamed)
    assert ask(engine, "") == Decision(allow=True, engine="embedded", revision=good.digest)


def test_answers_of_two_revisions_are_never_mixed(engine: EmbeddedEngine) -> None:
    bundles = [message_bundle(f'decision := {{"allow": true, "reasons": ["{n}"]}}') for n in range(4)]
    said = {bundle.digest: (str(n),) for n, bundle in enumerate(bundles)}
    engine.activate(bundles[0])
    done = threading.Event()

    def watch() -> list[Decision]:
        seen = []
        while not done.is_set():
            seen.append(ask(engine, ""))
        return seen

    with ThreadPoolExecutor(2) as pool:
        watching = [pool.submit(watch) for _ in range(2)]
        for bundle in bundles[1:] + bundles:
            engine.activate(bundle)
        done.set()
        decisions = [decision for watched in watching for decision in watched.result()]
    assert decisions
    assert all(decision.reasons == said[decision.revision] for decision in decisions)


def test_checking_finds_syntax_with_its_place(engine: EmbeddedEngine) -> None:
    bad = PolicyBundle(
        modules={
            "a.rego": module("x := 1\n# é\ny := [1, 2\n", "a"),
            "b.rego": module('x if {\n\t"é" == 1 2\n}', "b"),
            "c.rego": module("import data.x\nimport data.y as x", "c"),
        },
        data={"hub": {"revision": "r"}},
        digest="r",
    )
    assert [str(p) for p in engine.check(bad)] == [
        "a.rego:5:6: is not valid Rego: this is unclosed",
        "b.rego:4:2: is not valid Rego: invalid literal",
        "c.rego:4:1: is not valid Rego: import must not shadow import data.x",
    ]


def test_checking_finds_what_only_compiling_shows(engine: EmbeddedEngine) -> None:
    twice = message_bundle("default decision := 1\ndefault decision := 2")
    assert [str(p) for p in engine.check(twice)] == ["policies: is not valid Rego: multiple default rules"]
    recursive = message_bundle("decision := x\nx := decision")
    (problem,) = engine.check(recursive)
    assert str(problem).startswith(
        "policies/message.rego:3:1: data.hub.message.decision needs a rule or function that calls itself; break the "
    )


ENDLESS = """
decision := {"allow": count([1 | some a in r; some b in r; some c in r; a + b + c < 0]) > 0}
r := numbers.range(1, 9999)
"""


def test_checking_finds_a_decision_that_never_ends_within_what_one_decision_may_take(engine: EmbeddedEngine) -> None:
    assert [str(p) for p in engine.check(message_bundle(ENDLESS))] == [
        "policies/message.rego:4:1: data.hub.message.decision did not end within 0.5s, not even for an empty question; "
        "bound what it walks through"
    ]


def test_a_check_tells_how_long_it_takes_and_is_ended_by_what_that_raises() -> None:
    told: list[float] = []

    def attend(seconds: float) -> None:
        told.append(seconds)
        if len(told) == 3:
            raise PolicyEngineError("enough")

    engine = EmbeddedEngine(EngineLimits(decide_s=600.0, check_s=600.0), attend)
    with pytest.raises(PolicyEngineError, match="enough"):
        engine.check(message_bundle(ENDLESS))
    assert told == sorted(told)


def test_a_check_ends_in_its_time_with_tests_that_do_not(engine: EmbeddedEngine) -> None:
    never = [f"test_{n} if count([1 | some a in r; some b in r; some c in r; a + b + c < 0]) > 0" for n in range(9)]
    engine = EmbeddedEngine(EngineLimits(check_s=1.0))
    bundle = bundle_with_tests('decision := {"allow": true}', "\n".join([*never, "r := numbers.range(1, 9999)"]))
    problems = engine.check(bundle)
    assert [p.file for p in problems] == ["policies/message_test.rego"]
    assert "together" in problems[0].message


def test_checking_a_module_that_crashes_the_engine_names_it(engine: EmbeddedEngine) -> None:
    # `build_bundle` refuses this one, so that it is put together by hand.
    modules = {
        "a.rego": module('decision := {"allow": true}'),
        "b.rego": module(f"x := {'[' * 20_000}1{']' * 20_000}", "b"),
    }
    crashing = PolicyBundle(modules=modules, data={"hub": {"revision": "r"}}, digest="r")
    message = "cannot be compiled: the engine crashed or hung on it; simplify what was changed last"
    assert [str(p) for p in engine.check(crashing)] == [f"b.rego: {message}"]


def test_checking_a_decision_that_crashes_the_engine_names_it(engine: EmbeddedEngine) -> None:
    modules = {"a.rego": module("x := 1", "a"), "b.rego": module('decision := {"allow": count() == 1}')}
    crashing = PolicyBundle(modules=modules, data={"hub": {"revision": "r"}}, digest="r")
    message = "data.hub.message.decision crashed the engine, or used up its memory; simplify it"
    assert [str(p) for p in engine.check(crashing)] == [f"b.rego:3:1: {message}"]


def test_checking_runs_the_tests_and_leaves_what_answers_alone(engine: EmbeddedEngine) -> None:
    good = message_bundle('decision := {"allow": true}')
    engine.activate(good)
    before = worker_pid(engine)
    failing = bundle_with_tests(
        'decision := {"allow": false}', "test_allowed if message.decision.allow with input as {}"
    )
    assert [str(p) for p in engine.check(failing)] == [
        "policies/message_test.rego:4:1: test_allowed fails: an expression in it does not hold"
    ]
    assert ask(engine, "").revision == good.digest
    assert worker_pid(engine) == before


def test_closing_ends_the_worker(engine: EmbeddedEngine) -> None:
    engine.activate(bundle_of({}))
    pid = worker_pid(engine)
    engine.close()
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
