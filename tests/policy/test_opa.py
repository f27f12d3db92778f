"""OPA as the hub's engine: the same contract with a real server and with one that answers what a test says."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.core.address import Address, UnixAddress
from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError, PolicyPassingError
from reconciler.policy.chain import Chain, Order
from reconciler.policy.opa import SETTLING_S, OpaEngine, OpaSettings
from reconciler.policy.opa_answer import MAX_ANSWER_BYTES
from reconciler.ports import PolicyBundle
from tests.policy.fake_engine import FakeEngine
from tests.policy.opa_cases import QUESTION, R1, Case, each_case, expect
from tests.policy.opa_servers import (
    FakeOpa,
    React,
    RealOpa,
    Said,
    answering,
    at_revision,
    fake_opa,
    real_opa,
    socket_folder,
)

BUNDLE = PolicyBundle(modules={}, data={}, digest=R1)
ALLOW = answering({"revision": R1, "decision": {"allow": True}}, R1)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture(scope="module")
def shared_real() -> Iterator[RealOpa]:
    with real_opa() as server:
        yield server


@pytest.fixture
def fake(stack: ExitStack) -> FakeOpa:
    return stack.enter_context(fake_opa())


def engine_at(stack: ExitStack, address: Address, clock: Clock | None = None, *, settled: bool = True) -> OpaEngine:
    """An engine for policies r1 with a minute for an answer; `settled` says that it had the time to fetch them."""
    clock = clock or Clock()
    settings = OpaSettings(address=address, timeout_s=60.0, failures=3, half_open_after_s=2.0)
    engine = OpaEngine(settings, clock)
    stack.callback(engine.close)
    engine.activate(BUNDLE)
    clock.now += (SETTLING_S + 1) * settled
    return engine


def ask(engine: OpaEngine) -> Decision | str:
    try:
        return engine.decide("message", QUESTION)
    except PolicyEngineError as exc:
        return str(exc)


@each_case
def test_what_a_real_opa_says(stack: ExitStack, shared_real: RealOpa, case: Case) -> None:
    case.play(shared_real)
    expect(case, ask(engine_at(stack, shared_real.address)))


@each_case
def test_what_a_fake_opa_says(stack: ExitStack, fake: FakeOpa, case: Case) -> None:
    case.play(fake)
    expect(case, ask(engine_at(stack, fake.address)))


@each_case
def test_a_probe_knows_the_revision_without_a_question(stack: ExitStack, fake: FakeOpa, case: Case) -> None:
    case.play(fake)
    engine = engine_at(stack, fake.address)
    if case.revision == R1:
        engine.probe()
    else:
        with pytest.raises(PolicyEngineError, match="policies"):
            engine.probe()
    assert [path for path, _ in fake.asked] == ["/v1/data/hub/revision"]


def test_the_question_is_the_input_and_built_in_errors_are_strict(stack: ExitStack, fake: FakeOpa) -> None:
    fake.react = ALLOW
    ask(engine_at(stack, fake.address))
    assert fake.asked == [("/v1/data/hub/answer/message?strict-builtin-errors=true", {"input": QUESTION})]


def test_a_connection_is_kept(stack: ExitStack, fake: FakeOpa) -> None:
    fake.react = ALLOW
    engine = engine_at(stack, fake.address)
    for _ in range(5):
        assert isinstance(ask(engine), Decision)
    assert fake.connections == 1


def test_it_is_asked_over_a_unix_socket_as_well(stack: ExitStack) -> None:
    folder = stack.enter_context(socket_folder())
    server = FakeOpa(UnixAddress(path=str(folder / "opa.sock")))
    stack.callback(server.close)
    server.react = ALLOW
    engine = engine_at(stack, server.address)
    assert isinstance(ask(engine), Decision)
    assert isinstance(ask(engine), Decision)
    assert server.connections == 1


def test_redirects_are_not_followed(stack: ExitStack, fake: FakeOpa) -> None:
    other = stack.enter_context(fake_opa(ALLOW))
    for status in (301, 302, 303, 307, 308):
        said = Said(status=status, headers={"Location": f"{other.address}/v1/data/hub/answer/message"})
        fake.react = at_revision(R1, lambda _path, _body, said=said: said)  # type: ignore[misc]
        assert ask(engine_at(stack, fake.address)) == f"it answers with a redirect ({status}), which is not followed"
    assert other.asked == []


def test_proxies_of_the_environment_are_not_asked(
    stack: ExitStack, fake: FakeOpa, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = stack.enter_context(fake_opa(ALLOW))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, str(other.address))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    fake.react = ALLOW
    assert isinstance(ask(engine_at(stack, fake.address)), Decision)
    assert other.asked == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Said(body=b"<html>"), "its answer is not JSON of the data API"),
        (Said(body=b"[" * 100_000), "its answer is not JSON of the data API"),
        (Said(body=b"\xff\xfe"), "its answer is not JSON of the data API"),
        (Said(body=b""), "its answer is not JSON of the data API"),
        (Said(body=[1]), "its answer is not JSON of the data API"),
        (Said(status=503), "it answers with status 503 and nothing else"),
        (Said(body=b" " * (MAX_ANSWER_BYTES + 1)), "has more than"),
        (Said(raw=b"nonsense\r\n\r\n", is_last=True), "cannot be reached at http://127.0.0.1"),
        (Said(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", is_last=True), "cannot be reached at"),
        (None, "cannot be reached at http://127.0.0.1"),
    ],
)
def test_nonsense_is_no_answer(stack: ExitStack, fake: FakeOpa, said: Said | None, reason: str) -> None:
    fake.react = at_revision(R1, lambda _path, _body: said)
    found = ask(engine_at(stack, fake.address))
    assert isinstance(found, str)
    assert reason in found


def test_nobody_there_is_no_answer(stack: ExitStack, tmp_path: Path) -> None:
    found = ask(engine_at(stack, UnixAddress(path=str(tmp_path / "none"))))
    assert found == f"cannot be reached at unix://{tmp_path}/none: No such file or directory"


@pytest.mark.parametrize("bad", [float("nan"), {1, 2}, b"x", object()])
def test_a_question_that_is_no_json_is_denied(stack: ExitStack, fake: FakeOpa, bad: object) -> None:
    decision = engine_at(stack, fake.address).decide("message", {"x": bad})
    assert (decision.allow, decision.revision) == (False, R1)
    assert fake.asked == []


def test_a_slow_answer_is_given_up_and_seldom_slowness_alarms_nobody(stack: ExitStack, fake: FakeOpa) -> None:
    fake.react = fake.hang
    clock = Clock()
    engine = OpaEngine(OpaSettings(address=fake.address, timeout_s=0.05, failures=3, half_open_after_s=2.0), clock)
    stack.callback(engine.close)
    engine.activate(BUNDLE)
    clock.now += SETTLING_S + 1
    for _ in range(2):
        with pytest.raises(PolicyPassingError, match="no answer within 50 ms"):
            engine.decide("message", QUESTION)
    with pytest.raises(PolicyEngineError, match="no answer within 50 ms") as third:
        engine.decide("message", QUESTION)
    assert not isinstance(third.value, PolicyPassingError)


def test_an_answer_that_comes_drop_by_drop_is_given_up(stack: ExitStack, fake: FakeOpa) -> None:
    """Each drop comes in time; all of them do not."""
    body = b'{"result":{"revision":"r1","decision":{"allow":true}}}' + b" " * 1000
    drip = Said(raw=b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), drops=body)
    fake.react = at_revision(R1, lambda _path, _body: drip)
    engine = OpaEngine(OpaSettings(address=fake.address, timeout_s=0.3))
    stack.callback(engine.close)
    engine.activate(BUNDLE)
    assert ask(engine) == "no answer within 300 ms"


def refusing(_path: str, _body: object) -> Said:
    return Said(status=503)


def test_after_outages_in_a_row_nothing_is_asked_until_a_probe_is_due(stack: ExitStack, fake: FakeOpa) -> None:
    clock = Clock()
    fake.react = refusing
    engine = engine_at(stack, fake.address, clock)
    for _ in range(5):
        ask(engine)
    assert len(fake.asked) == 3
    assert ask(engine) == "no answer 3 times in a row; it is tried again soon"
    clock.now += 2.0
    assert ask(engine) == "it answers with status 503 and nothing else"
    assert len(fake.asked) == 4
    fake.react = ALLOW
    assert ask(engine) == "no answer 3 times in a row; it is tried again soon"
    clock.now += 2.0
    assert isinstance(ask(engine), Decision)
    assert isinstance(ask(engine), Decision)


def test_another_revision_does_not_open_the_breaker(stack: ExitStack, fake: FakeOpa) -> None:
    fake.react = answering({"revision": "r0", "decision": {"allow": True}}, "r0")
    engine = engine_at(stack, fake.address)
    for _ in range(10):
        assert ask(engine) == "it has policies r0, not r1"
    fake.react = ALLOW
    assert isinstance(ask(engine), Decision)


@pytest.mark.parametrize("react", [refusing, answering({}), answering({"revision": "r0"}, "r0")])
def test_while_it_fetches_the_policies_nobody_is_alarmed_and_afterwards_they_are(
    stack: ExitStack, fake: FakeOpa, react: React
) -> None:
    clock = Clock()
    fake.react = react
    engine = engine_at(stack, fake.address, clock, settled=False)
    for _ in range(5):
        with pytest.raises(PolicyPassingError):
            engine.decide("message", QUESTION)
    clock.now += SETTLING_S
    with pytest.raises(PolicyEngineError) as caught:
        engine.decide("message", QUESTION)
    assert not isinstance(caught.value, PolicyPassingError)
    engine.activate(PolicyBundle(modules={}, data={}, digest="r2"))
    with pytest.raises(PolicyEngineError) as caught:
        engine.decide("message", QUESTION)
    assert not isinstance(caught.value, PolicyPassingError), "it was away before: nothing new is expected"


def test_once_it_answered_another_revision_is_a_fault_at_once(stack: ExitStack, fake: FakeOpa) -> None:
    fake.react = ALLOW
    engine = engine_at(stack, fake.address, settled=False)
    assert isinstance(ask(engine), Decision)
    fake.react = answering({})
    with pytest.raises(PolicyEngineError) as caught:
        engine.decide("message", QUESTION)
    assert not isinstance(caught.value, PolicyPassingError)


def test_without_settings_or_program_it_says_so(stack: ExitStack, fake: FakeOpa) -> None:
    engine = OpaEngine()
    stack.callback(engine.close)
    assert ask(engine) == "it is not configured"
    engine.configure(OpaSettings(address=fake.address, missing="there is no program"))
    assert ask(engine) == "there is no program"
    engine.activate(BUNDLE)
    fake.react = ALLOW
    engine.configure(OpaSettings(address=fake.address))
    assert isinstance(ask(engine), Decision)


def test_other_settings_are_used_from_the_next_question_on(stack: ExitStack, fake: FakeOpa) -> None:
    other = stack.enter_context(fake_opa(ALLOW))
    fake.react = refusing
    engine = engine_at(stack, fake.address)
    assert isinstance(ask(engine), str)
    engine.configure(OpaSettings(address=other.address))
    assert isinstance(ask(engine), Decision)


def test_many_threads_ask_at_once(stack: ExitStack, fake: FakeOpa) -> None:
    def react(_path: str, body: dict[str, dict[str, str]]) -> Said:
        decision = {"allow": False, "reasons": [body["input"]["who"]]}
        return Said(body={"result": {"revision": R1, "decision": decision}})

    fake.react = at_revision(R1, react)
    engine = engine_at(stack, fake.address)
    found: dict[str, tuple[str, ...]] = {}

    def work(who: str) -> None:
        for _ in range(20):
            found[who] = engine.decide("message", {"who": who}).reasons
            assert found[who] == (who,)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {f"t{n}": (f"t{n}",) for n in range(8)}


SLOW = """
decision := {"allow": true} if {
    count([1 | some a in numbers.range(1, 5000); some b in numbers.range(1, 5000); a == b]) > 0
}
"""


def test_a_policy_that_takes_too_long_for_a_real_opa(stack: ExitStack, shared_real: RealOpa) -> None:
    shared_real.restart()
    shared_real.put(R1, SLOW)
    engine = OpaEngine(OpaSettings(address=shared_real.address, timeout_s=0.2))
    stack.callback(engine.close)
    engine.activate(BUNDLE)
    began = time.monotonic()
    assert ask(engine) == "no answer within 200 ms"
    assert time.monotonic() - began < 60


def test_a_real_opa_that_lost_its_policies_in_a_restart_and_gets_them_again(
    stack: ExitStack, shared_real: RealOpa
) -> None:
    rego = 'decision := {"allow": true}'
    shared_real.restart()
    shared_real.put(R1, rego)
    engine = engine_at(stack, shared_real.address)
    assert isinstance(ask(engine), Decision)
    shared_real.kill()
    assert str(ask(engine)).startswith("cannot be reached")
    shared_real.restart()
    assert ask(engine) == "it has no policies, not r1"
    shared_real.put(R1, rego)
    assert isinstance(ask(engine), Decision)


# --- in the chain -----------------------------------------------------------------------------------------------------


def chain_of(stack: ExitStack, engine: OpaEngine, told: list[str | None]) -> tuple[Chain, FakeEngine]:
    embedded = FakeEngine()
    bundle = PolicyBundle(
        modules={"a.rego": 'package hub.message\nimport rego.v1\ndecision := {"allow": true}'}, data={}, digest=R1
    )
    order = Order(engines=("opa", "embedded", "builtin"))
    chain = Chain({"opa": engine, "embedded": embedded}, order, told.append, probes={"opa": engine.probe})
    chain.activate(bundle)
    return chain, embedded


def test_the_chain_falls_back_once_and_comes_back_by_a_probe_alone(stack: ExitStack, fake: FakeOpa) -> None:
    clock, told = Clock(), list[str | None]()
    engine = engine_at(stack, fake.address, clock)
    fake.react = ALLOW
    chain, _ = chain_of(stack, engine, told)
    assert chain.decide("message", QUESTION).engine == "opa"
    assert (told, chain.answering) == ([], "opa")
    fake.react = refusing
    for _ in range(4):
        chain.probe()
        assert chain.decide("message", QUESTION).engine == "embedded"
    assert told == ["opa: asked for its revision, it answers with status 503"]
    assert chain.answering == "embedded"
    fake.react = ALLOW
    clock.now += 2.0
    chain.probe()
    assert told[1:] == [None]
    assert chain.answering == "opa"
    assert chain.decide("message", QUESTION).engine == "opa"


def test_while_opa_fetches_the_policies_the_next_engine_answers_without_an_alarm(
    stack: ExitStack, fake: FakeOpa
) -> None:
    told: list[str | None] = []
    chain, _ = chain_of(stack, engine_at(stack, fake.address, settled=False), told)
    chain.probe()
    assert chain.decide("message", QUESTION).engine == "embedded"
    assert (told, chain.is_falling_back) == ([], False)


def test_what_only_opa_would_take_is_not_in_force(stack: ExitStack, fake: FakeOpa) -> None:
    """OPA takes a bundle later, from the router; somebody must have looked at it before."""
    chain, embedded = chain_of(stack, engine_at(stack, fake.address), [])
    embedded.is_down = True
    with pytest.raises(PolicyEngineError, match="embedded is down"):
        chain.activate(PolicyBundle(modules={}, data={}, digest="r2"))
    assert chain.revision == R1


def test_another_order_ends_the_alarm_about_the_engine_that_left_it(stack: ExitStack, fake: FakeOpa) -> None:
    told: list[str | None] = []
    clock = Clock()
    fake.react = refusing
    chain, _ = chain_of(stack, engine_at(stack, fake.address, clock), told)
    clock.now += SETTLING_S
    chain.probe()
    assert chain.is_falling_back
    chain.configure(Order(engines=("embedded", "builtin")))
    assert chain.answering == "embedded"
    assert not chain.is_falling_back
    assert told[-1] is None


def test_the_library_is_imported_only_when_somebody_is_asked() -> None:
    code = "import sys, reconciler.bootstrap; print([m for m in ('opa_client', 'requests', 'aiohttp') if m in sys.modules])"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.strip() == "[]"
