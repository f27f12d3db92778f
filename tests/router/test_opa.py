"""OPA as the router's engine: the contract of `tests/policy/opa_cases.py`, what it does when OPA is away, and a real
router with a real OPA that comes and goes.
"""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.address import Address, UnixAddress
from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy.opa_answer import MAX_ANSWER_BYTES
from reconciler.policy.opa_process import start_opa, stop_opa
from reconciler.router import opa as module
from reconciler.router.channel import RefusedByRouterError
from reconciler.router.config import OpaEntry
from reconciler.router.eager import Eager
from reconciler.router.opa import OpaEngine
from reconciler.router.opa_link import OpaLink
from tests.policy.opa_cases import QUESTION, R1, Case, each_case, expect
from tests.policy.opa_servers import (
    FakeOpa,
    RealOpa,
    Said,
    answering,
    at_revision,
    fake_opa,
    need_opa,
    real_opa,
    socket_folder,
)
from tests.router.fleet import Fleet, until

ALLOW = answering({"revision": R1, "decision": {"allow": True}}, R1)
NOT_LOOKED = "it has not said yet which policies it has"
PATIENT = OpaEntry(timeout_s=60.0, failures=3, half_open_after_s=0.05)


@pytest.fixture
def fake() -> Iterator[FakeOpa]:
    with fake_opa() as server:
        yield server


@pytest.fixture(scope="module")
def shared_real() -> Iterator[RealOpa]:
    with real_opa() as server:
        yield server


@asynccontextmanager
async def engine_at(
    address: Address, settings: OpaEntry = PATIENT, *, told: list[str] | None = None, fault: str = ""
) -> AsyncIterator[OpaEngine]:
    """An engine for policies r1 that has looked at the server once. `told` is given each new fault."""
    engine = OpaEngine(settings, address, R1, fault=fault, on_change=lambda: told is None or told.append(engine.fault))
    try:
        await eventually(lambda: engine.is_ready or engine.why_not != NOT_LOOKED)
        yield engine
    finally:
        await engine.close()


async def eventually(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(engine: OpaEngine, question: dict[str, Any] = QUESTION) -> Decision | str:
    try:
        return await engine.decide("message", question)
    except PolicyEngineError as exc:
        return str(exc)


def ask_once(address: Address, settings: OpaEntry = PATIENT) -> Decision | str:
    async def scenario() -> Decision | str:
        async with engine_at(address, settings) as engine:
            return await ask(engine)

    return asyncio.run(scenario())


@each_case
def test_what_a_real_opa_says(shared_real: RealOpa, case: Case) -> None:
    case.play(shared_real)
    expect(case, ask_once(shared_real.address))


@each_case
def test_what_a_fake_opa_says(fake: FakeOpa, case: Case) -> None:
    case.play(fake)
    expect(case, ask_once(fake.address))


@each_case
def test_an_answer_for_other_policies_is_never_taken(fake: FakeOpa, case: Case) -> None:
    """Also where OPA said a moment ago that it has the right ones."""

    async def scenario() -> Decision | str:
        fake.react = ALLOW
        async with engine_at(fake.address) as engine:
            case.play(fake)
            return await ask(engine)

    expect(case, asyncio.run(scenario()))


def test_the_question_is_the_input_and_built_in_errors_are_strict(fake: FakeOpa) -> None:
    fake.react = ALLOW
    assert isinstance(ask_once(fake.address), Decision)
    assert fake.asked[-1] == ("/v1/data/hub/answer/message?strict-builtin-errors=true", {"input": QUESTION})


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Said(body=b"<html>"), "its answer is not JSON of the data API"),
        (Said(body=b"[" * 100_000), "its answer is not JSON of the data API"),
        (Said(body=b"\xff\xfe"), "its answer is not JSON of the data API"),
        (Said(body=b""), "its answer is not JSON of the data API"),
        (Said(status=503), "it answers with status 503 and nothing else"),
        (Said(body=b" " * (MAX_ANSWER_BYTES + 1)), f"its answer has more than {MAX_ANSWER_BYTES} bytes"),
        (Said(raw=b"nonsense\r\n\r\n"), "its answer is not HTTP"),
        (Said(raw=b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), "it answers with"),
        (Said(raw=b"HTTP/1.1 103 Early Hints\r\n\r\n"), "it answers with status 103"),
        (Said(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", is_last=True), "it ended the connection without"),
        (None, "it ended the connection without an answer"),
    ],
)
def test_nonsense_is_no_answer(fake: FakeOpa, said: Said | None, reason: str) -> None:
    fake.react = at_revision(R1, lambda _path, _body: said)
    found = ask_once(fake.address)
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_redirects_are_not_followed(fake: FakeOpa) -> None:
    with fake_opa(ALLOW) as other:
        for status in (301, 302, 303, 307, 308):
            said = Said(status=status, headers={"Location": f"{other.address}/v1/data/hub/answer/message"})
            fake.react = at_revision(R1, lambda _path, _body, said=said: said)  # type: ignore[misc]
            assert ask_once(fake.address) == f"it answers with a redirect ({status}), which is not followed"
        assert other.asked == []


def test_nobody_there_is_no_answer(tmp_path: Path) -> None:
    found = ask_once(UnixAddress(path=str(tmp_path / "none")))
    assert found == f"cannot be reached at unix://{tmp_path}/none: No such file or directory"


@pytest.mark.parametrize("drops", [b"", b" " * 1000])
def test_a_slow_answer_is_given_up_however_it_comes(fake: FakeOpa, drops: bytes) -> None:
    slow = Said(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", drops=drops)
    fake.react = at_revision(R1, lambda _path, _body: slow)
    assert ask_once(fake.address, OpaEntry(timeout_s=0.2)) == "no answer within 200 ms"


def test_connections_are_kept_and_bounded_and_answers_are_not_mixed_up(fake: FakeOpa) -> None:
    def react(_path: str, body: Any) -> Said:
        decision = {"allow": False, "reasons": [body["input"]["who"]]}
        return Said(body={"result": {"revision": R1, "decision": decision}})

    async def scenario() -> None:
        async with engine_at(fake.address) as engine:
            for _ in range(2):
                names = [str(n) for n in range(100)]
                decisions = await asyncio.gather(*(engine.decide("message", {"who": name}) for name in names))
                assert [d.reasons for d in decisions] == [(name,) for name in names]

    fake.react = at_revision(R1, react)
    asyncio.run(scenario())
    assert 1 < fake.connections <= 33


def test_an_answer_that_nobody_waits_for_any_more_is_not_taken_for_another(fake: FakeOpa) -> None:
    late = threading.Event()

    def react(_path: str, body: Any) -> Said:
        if body["input"]["who"] == "late":
            late.wait(60)
        decision = {"allow": False, "reasons": [body["input"]["who"]]}
        return Said(body={"result": {"revision": R1, "decision": decision}})

    async def scenario() -> None:
        async with engine_at(fake.address) as engine:
            asked = asyncio.ensure_future(engine.decide("message", {"who": "late"}))
            await eventually(lambda: any(body.get("input") == {"who": "late"} for _, body in fake.asked))
            asked.cancel()
            late.set()
            for _ in range(5):
                assert (await engine.decide("message", {"who": "next"})).reasons == ("next",)

    fake.react = at_revision(R1, react)
    asyncio.run(scenario())


def test_whoever_asks_need_not_be_a_task(fake: FakeOpa) -> None:
    """As in the route; also where a new connection has to be made, or waited for."""

    async def scenario() -> None:
        async with engine_at(fake.address) as engine:
            found: list[Decision | str | None] = []
            for _ in range(50):
                Eager(ask(engine), found.append)
            await eventually(lambda: len(found) == 50)
            assert all(isinstance(decision, Decision) for decision in found)

    fake.react = ALLOW
    asyncio.run(scenario())


# --- away and back ----------------------------------------------------------------------------------------------------


def is_question(path: str) -> bool:
    return path.startswith("/v1/data/hub/answer/")


def refusing(_path: str, _body: Any) -> Said:
    return Said(status=503)


def test_single_outages_change_nothing_and_those_in_a_row_do(fake: FakeOpa) -> None:
    async def scenario() -> None:
        told: list[str] = []
        settings = OpaEntry(timeout_s=60.0, failures=3, half_open_after_s=600.0)
        fake.react = ALLOW
        async with engine_at(fake.address, settings, told=told) as engine:
            for _ in range(2):
                fake.react = at_revision(R1, refusing)
                await ask(engine)
                await ask(engine)
                assert (engine.is_ready, engine.fault) == (True, "")
                fake.react = ALLOW
                assert isinstance(await ask(engine), Decision)
            fake.react = at_revision(R1, refusing)
            for _ in range(3):
                await ask(engine)
            asked = len(fake.asked)
            for _ in range(10):
                assert await ask(engine) == "it answers with status 503 and nothing else"
            assert len(fake.asked) == asked
            assert not engine.is_ready
        assert told == ["it answers with status 503 and nothing else"]

    asyncio.run(scenario())


def test_without_questions_it_comes_back_when_the_one_that_failed_is_answered(fake: FakeOpa) -> None:
    async def scenario() -> None:
        told: list[str] = []
        fake.react = ALLOW
        async with engine_at(fake.address, told=told) as engine:
            fake.react = at_revision(R1, refusing)
            for _ in range(3):
                await ask(engine)
            fake.asked.clear()
            await eventually(lambda: len([path for path, _ in fake.asked if is_question(path)]) >= 3)
            assert all(body in ({"input": QUESTION}, {}) for _, body in fake.asked)
            assert engine.fault == "it answers with status 503 and nothing else"
            fake.react = ALLOW
            await eventually(lambda: not engine.fault)
            assert engine.is_ready
        assert told == ["it answers with status 503 and nothing else", ""]

    asyncio.run(scenario())


def test_while_it_fails_again_and_again_there_is_one_fault_and_few_questions(fake: FakeOpa) -> None:
    async def scenario() -> None:
        told: list[str] = []
        fake.react = ALLOW
        async with engine_at(fake.address, told=told) as engine:
            fake.react = at_revision(R1, refusing)
            for _ in range(3):
                await ask(engine)
            for _ in range(3):
                await eventually(lambda: engine.is_ready)
                fake.asked.clear()
                for _ in range(20):
                    assert isinstance(await ask(engine), str)
                assert len([path for path, _ in fake.asked if is_question(path)]) < 20
                assert not engine.is_ready
        assert told == ["it answers with status 503 and nothing else"]

    asyncio.run(scenario())


def test_who_breaks_it_by_one_question_does_not_take_it_from_the_others(fake: FakeOpa) -> None:
    def react(path: str, body: Any) -> Said | None:
        return Said(status=503) if body["input"].get("who") == "evil" else ALLOW(path, body)

    async def scenario() -> None:
        fake.react = at_revision(R1, react)
        async with engine_at(fake.address) as engine:
            for _ in range(3):
                await ask(engine, {"who": "evil"})
            assert not engine.is_ready
            await eventually(lambda: engine.is_ready)
            assert isinstance(await ask(engine), Decision)
            assert engine.fault == ""
            for _ in range(2):
                await ask(engine, {"who": "evil"})
            assert isinstance(await ask(engine), Decision)

    asyncio.run(scenario())


def test_one_outage_has_one_reason_until_it_is_another_kind_of_fault(fake: FakeOpa) -> None:
    async def scenario() -> None:
        told: list[str] = []
        fake.react = ALLOW
        async with engine_at(fake.address, told=told) as engine:
            fake.react = refusing
            for _ in range(3):
                await ask(engine)
            fake.react = lambda _path, _body: None
            await eventually(lambda: "ended" in engine.why_not)
            fake.react = answering({})
            await eventually(lambda: engine.fault == "it has no policies, not r1")
            fake.react = ALLOW
            await eventually(lambda: not engine.fault)
        assert told == ["it answers with status 503 and nothing else", "it has no policies, not r1", ""]

    asyncio.run(scenario())


def test_policies_that_come_later_are_noticed_soon_and_without_a_fault(fake: FakeOpa) -> None:
    async def scenario() -> None:
        told: list[str] = []
        fake.react = answering({"revision": "r0", "decision": {"allow": True}}, "r0")
        async with engine_at(fake.address, told=told) as engine:
            assert (engine.is_ready, engine.fault) == (False, "")
            assert await ask(engine) == "it has policies r0, not r1"
            fake.react = ALLOW
            await eventually(lambda: engine.is_ready)
        assert told == []

    asyncio.run(scenario())


def test_policies_that_do_not_come_are_a_fault_after_a_while(fake: FakeOpa, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        told: list[str] = []
        async with engine_at(fake.address, told=told) as engine:
            await eventually(lambda: engine.fault != "")
            fake.react = ALLOW
            await eventually(lambda: engine.is_ready)
        assert told == ["it has no policies, not r1", ""]

    monkeypatch.setattr(module, "SETTLING_S", 0.1)
    asyncio.run(scenario())


def test_an_engine_that_follows_one_with_a_fault_has_it_until_it_is_ready(fake: FakeOpa) -> None:
    async def scenario() -> None:
        told: list[str] = []
        fake.react = refusing
        async with engine_at(fake.address, told=told, fault="gone") as engine:
            assert (engine.fault, told) == ("gone", [])
            fake.react = ALLOW
            await eventually(lambda: engine.is_ready)
            assert (engine.fault, told) == ("", [""])

    asyncio.run(scenario())


def test_the_end_of_opa_is_noticed_without_a_question(tmp_path: Path) -> None:
    async def scenario(folder: Path) -> None:
        told: list[str] = []
        address = UnixAddress(path=str(folder / "opa.sock"))
        first = FakeOpa(address)
        first.react = ALLOW
        async with engine_at(address, told=told) as engine:
            assert engine.is_ready
            first.close()
            (folder / "opa.sock").unlink()
            first.drop_all()
            await eventually(lambda: not engine.is_ready)
            assert told == [f"cannot be reached at {address}: No such file or directory"]
            second = FakeOpa(address)
            second.react = ALLOW
            await eventually(lambda: engine.is_ready)
            second.close()

    with socket_folder() as folder:
        asyncio.run(scenario(folder))


SLOW = """
decision := {"allow": true} if {
    count([1 | some a in numbers.range(1, 5000); some b in numbers.range(1, 5000); a == b]) > 0
}
"""


def test_a_policy_that_takes_too_long_for_a_real_opa(shared_real: RealOpa) -> None:
    shared_real.restart()
    shared_real.put(R1, SLOW)
    assert ask_once(shared_real.address, OpaEntry(timeout_s=0.2)) == "no answer within 200 ms"


def test_a_real_opa_that_loses_its_policies_in_a_restart_and_gets_them_again(shared_real: RealOpa) -> None:
    async def scenario() -> None:
        told: list[str] = []
        async with engine_at(shared_real.address, told=told) as engine:
            assert isinstance(await ask(engine), Decision)
            await asyncio.to_thread(shared_real.restart)
            await eventually(lambda: engine.fault == "it has no policies, not r1")
            assert await ask(engine) == "it has no policies, not r1"
            await asyncio.to_thread(shared_real.put, R1, 'decision := {"allow": true}')
            await eventually(lambda: engine.is_ready)
            assert isinstance(await ask(engine), Decision)

    shared_real.restart()
    shared_real.put(R1, 'decision := {"allow": true}')
    asyncio.run(scenario())


# --- in a real router -------------------------------------------------------------------------------------------------


def rego(sensitivity: str) -> str:
    """To the hub, and what is of this sensitivity."""
    return (
        "package hub.message\nimport rego.v1\n"
        'default decision := {"allow": false, "reasons": ["no"]}\n'
        f'decision := {{"allow": true, "reasons": []}} if input.message.sensitivity == "{sensitivity}"\n'
        'decision := {"allow": true, "reasons": []} if input.recipient.kind == "hub"\n'
    )


def policy(digest: str, sensitivity: str = "public") -> dict[str, Any]:
    modules = {"policies/message.rego": rego(sensitivity)}
    return {"digest": digest, "modules": modules, "data": {"hub": {"revision": digest}}}


OPA = {"engines": ["opa", "embedded", "builtin"], "cache_entries": 0}


@pytest.fixture
def fleet(start_fleet: Callable[[], Fleet]) -> Iterator[Fleet]:
    """A router whose policies p1 are served to OPA; OPA itself does not run."""
    made = start_fleet()
    made.configure(rules=OPA, opa={"half_open_after_s": 0.2, "timeout_s": 30.0}, policy=policy("p1"))
    yield made
    stop_opa(made.run)


def run_opa(fleet: Fleet) -> int:
    return start_opa(fleet.run, fleet.data, need_opa()).pid


def answers(fleet: Fleet, engine: str) -> Callable[[], bool]:
    return lambda: fleet.state()["policy"]["engine"] == engine


def test_a_real_opa_gets_the_policies_from_the_router_and_answers_for_it(fleet: Fleet) -> None:
    writer, _ = fleet.register("writer-0"), fleet.register("reviewer-0")
    assert fleet.state()["policy"] == {"engine": "embedded", "fault": ""}
    run_opa(fleet)
    until(answers(fleet, "opa"))
    assert writer.send("a.public", to="reviewer", sensitivity="public").status == 202
    assert writer.send("a.note", to="reviewer").status == 403
    rows = fleet.rows("type LIKE 'a.%'")
    assert [(r["engine"], r["verdict"], r["policy_revision"], r["reason"]) for r in rows] == [
        ("opa", "allow", "p1", None),
        ("opa", "deny", "p1", "no"),
    ]
    assert fleet.report().policy_engine == "opa"


def test_other_policies_reach_opa_at_once_and_no_answer_is_of_the_old_ones(fleet: Fleet) -> None:
    writer, _ = fleet.register("writer-0"), fleet.register("reviewer-0")
    run_opa(fleet)
    until(answers(fleet, "opa"))
    fleet.configure(policy=policy("p2", "internal"))
    assert writer.send("b.note", to="reviewer").status == 202
    assert writer.send("b.public", to="reviewer", sensitivity="public").status == 403
    until(answers(fleet, "opa"), timeout_s=60)
    assert writer.send("b.late", to="reviewer").status == 202
    rows = fleet.rows("type LIKE 'b.%'")
    assert {r["policy_revision"] for r in rows} == {"p2"}
    assert rows[-1]["engine"] == "opa"
    assert fleet.state()["modes"] == []


def test_policies_that_left_are_gone_from_opa_too(fleet: Fleet) -> None:
    run_opa(fleet)
    until(answers(fleet, "opa"))
    fleet.configure(policy=None)
    address = UnixAddress(path=str(fleet.run / "opa" / "opa.sock"))

    async def revision_of_opa() -> bytes:
        link = OpaLink(address)
        said = await link.ask(link.head("/v1/data/hub/revision"), b"{}", 5.0)
        await link.close(0)
        return getattr(said, "body", b"")

    until(lambda: b"p1" not in asyncio.run(revision_of_opa()))
    assert fleet.state()["policy"] == {"engine": "builtin", "fault": ""}


def test_an_opa_killed_in_the_middle_of_load_costs_no_message(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    pid = run_opa(fleet)
    until(answers(fleet, "opa"))
    fleet.link.wait_hint(0)
    statuses: list[int] = []

    def send(name: str) -> None:
        for n in range(60):
            sensitivity = "public" if n % 2 else "internal"
            status = writer.send(f"{name}.m", to="reviewer", sensitivity=sensitivity).status
            statuses.append(status if n % 2 else 202 if status == 403 else status)

    threads = [threading.Thread(target=send, args=(f"load{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(statuses) > 40)
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert statuses == [202] * 180
    rows = fleet.rows("type LIKE 'load%'")
    assert len(rows) == 180
    assert {r["engine"] for r in rows} == {"opa", "embedded"}
    assert {r["policy_revision"] for r in rows} == {"p1"}
    until(lambda: "policy_fallback" in fleet.state()["modes"])
    assert fleet.report().policy_fault.startswith("opa: ")
    assert "policy" in fleet.link.wait_hint(60)
    reviewer.receive()
    run_opa(fleet)
    until(answers(fleet, "opa"))
    assert fleet.state()["modes"] == []
    assert "policy" in fleet.link.wait_hint(60)


def test_an_opa_that_does_not_take_the_policies_says_why(fleet: Fleet) -> None:
    """What the embedded engine takes, and OPA's compiler does not: here, a comparison of types that never match."""
    run_opa(fleet)
    until(answers(fleet, "opa"))
    broken = rego("public") + 'never if 1 == "a"\nnever if count("a", "b", "c") == 1\n'
    odd = {"digest": "p3", "modules": {"policies/message.rego": broken}, "data": {"hub": {"revision": "p3"}}}
    fleet.configure(rules={**OPA, "engines": ["opa", "builtin"]}, policy=odd)
    until(lambda: "OPA does not take the policies" in fleet.report().policy_fault)
    assert "policies/message.rego:" in fleet.report().policy_fault
    fleet.configure(policy=policy("p4"))
    until(answers(fleet, "opa"))
    assert fleet.report().policy_fault == ""


@pytest.mark.parametrize(
    ("opa", "said"),
    [
        (None, "rules.engines: opa needs the member opa"),
        ({"url": "https://127.0.0.1"}, "opa.url: is 'https://127.0.0.1', which is no address"),
        ({"timeout_s": 0}, "opa.timeout_s"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(start_fleet: Callable[[], Fleet], opa: Any, said: str) -> None:
    fleet = start_fleet()
    with pytest.raises(RefusedByRouterError, match=said):
        fleet.configure(rules=OPA, opa=opa, policy=policy("p1"))
