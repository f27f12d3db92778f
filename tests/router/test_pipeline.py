"""The laws of the route, in one process with a log that does as it is told."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.decision import Decision
from reconciler.router.answer import Answer
from reconciler.router.config import Config, InstanceEntry
from reconciler.router.pipeline import Route
from reconciler.router.registry import Instance, Registry
from reconciler.router.requests import Requests
from reconciler.router.rules import Rules, compile_rules, initial_rules
from reconciler.router.traffic import InboxEntry, Row
from tests.router.fleet import basic_config, instance_entry

TOKEN = "t" * 43


class ToldLog:
    """Keeps rows; `is_broken` refuses them, `gate` holds them back until it is opened."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.inbox: list[InboxEntry] = []
        self.counted: list[str] = []
        self.is_broken = False
        self.gate: asyncio.Event | None = None

    def record(self, row: Row, inbox: InboxEntry | None = None) -> Awaitable[bool]:
        return self._record(row, inbox)

    async def _record(self, row: Row, inbox: InboxEntry | None) -> bool:
        if self.gate is not None:
            await self.gate.wait()
        if self.is_broken:
            return False
        self.rows.append(row)
        if inbox is not None:
            self.inbox.append(inbox)
        return True

    def note(self, row: Row) -> None:
        self.rows.append(row)

    def count(self, instance: str, agent: str, code: str, step: str) -> None:
        self.counted.append(code)


class Posted:
    """One POST."""

    is_gone = False

    def __init__(self, body: bytes, *, token: str = TOKEN, wait_s: float = 0.0) -> None:
        self.headers: Sequence[tuple[bytes, bytes]] = [(b"authorization", b"Bearer " + token.encode())]
        self.size_bytes = len(body)
        self.wait_s = wait_s
        self._body = body

    async def read(self) -> bytes:
        return self._body

    async def wait(self, waiter: "asyncio.Future[bytes | None]", timeout_s: float) -> bytes | None:
        try:
            return await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return None


class BrokenEngine:
    """An engine with a mistake in it."""

    name = "embedded"
    revision = "r"

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        raise ZeroDivisionError(question["message"]["type"])

    async def close(self) -> None:
        pass


class SlowEngine:
    """An engine that allows, once it is let."""

    name = "embedded"
    revision = "r"

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        await self.gate.wait()
        return Decision(allow=True, engine=self.name, revision=self.revision)

    async def close(self) -> None:
        pass


class World:
    """A route with three instances that are ready."""

    def __init__(self, rules: Rules) -> None:
        self.log = ToldLog()
        self.registry = Registry()
        self.hints: list[str] = []
        self.route = Route(
            rules=rules,
            registry=self.registry,
            requests=Requests(),
            log=self.log,  # type: ignore[arg-type]
            hint=self.hints.append,
        )
        for name in ("writer-0", "reviewer-0", "archive-0"):
            shown = instance_entry(name.partition("-")[0], [(TOKEN, time.time() + 100)])
            self.registry.register(name, msgspec.convert(shown, InstanceEntry)).hello = {}

    def __getitem__(self, name: str) -> Instance:
        return self.registry.by_name[name]

    async def post(self, fields: dict[str, object] | bytes, *, sender: str = "writer-0", **options: Any) -> Answer:
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        return await self.route.route(self[sender], Posted(body, **options))

    def waiting(self) -> int:
        return sum(len(instance.mailbox) for instance in self.registry.by_name.values())

    def reserved(self) -> int:
        return sum(i.mailbox.waiting - len(i.mailbox) for i in self.registry.by_name.values())


def note(**fields: object) -> dict[str, object]:
    return {"id": "m", "type": "review.note", "pattern": "event", "to": "reviewer", **fields}


def run(scenario: Callable[[World], Awaitable[None]], **sections: Any) -> None:
    async def main() -> None:
        config = msgspec.convert(basic_config(**sections), Config)
        await scenario(World(await compile_rules(config, initial_rules(), {})))

    asyncio.run(main())


def test_nothing_is_delivered_before_its_row_is_written() -> None:
    async def scenario(world: World) -> None:
        world.log.gate = asyncio.Event()
        posted = asyncio.ensure_future(world.post(note()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not posted.done()
        assert (world.waiting(), world.reserved()) == (0, 1)
        world.log.gate.set()
        assert (await posted).status == 202
        assert (world.waiting(), world.reserved()) == (1, 0)

    run(scenario)


def test_what_cannot_be_logged_is_neither_delivered_nor_denied() -> None:
    async def scenario(world: World) -> None:
        world.log.is_broken = True
        for fields in (note(), note(to="nobody"), note(type="task.started", to="hub"), b"{"):
            answer = await world.post(fields)
            assert (answer.status, json.loads(answer.body)["code"]) == (503, "log_unavailable")
        assert (world.waiting(), world.reserved(), world.hints) == (0, 0, [])
        world.log.is_broken = False
        assert (await world.post(note())).status == 202

    run(scenario)


def test_an_exception_in_a_step_is_a_denial_without_details(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        world.route.rules = replace(world.route.rules, engines=(BrokenEngine(),))
        answer = await world.post(note())
        problem = json.loads(answer.body)
        assert (answer.status, problem["code"], problem["step"]) == (500, "internal", "policy")
        assert b"ZeroDivision" not in answer.body
        assert [(row.verdict, row.code) for row in world.log.rows] == [("deny", "internal")]
        assert (world.waiting(), world.route._intake.in_flight_bytes) == (0, 0)

    run(scenario)
    assert "ZeroDivisionError in step policy" in caplog.text
    assert "review.note" not in caplog.text


def test_a_sender_that_is_cancelled_gives_its_place_back() -> None:
    async def scenario(world: World) -> None:
        world.log.gate = asyncio.Event()
        posted = asyncio.ensure_future(world.post(note()))
        await asyncio.sleep(0.01)
        posted.cancel()
        await asyncio.gather(posted, return_exceptions=True)
        assert (world.waiting(), world.reserved(), world["writer-0"].in_flight_bytes) == (0, 0, 0)
        world.log.gate.set()
        assert (await world.post(note())).status == 202

    run(scenario)


def test_a_reply_that_cannot_be_logged_may_come_again() -> None:
    async def scenario(world: World) -> None:
        await world.post(note(type="review.request", pattern="request"))
        reply = {"id": "r", "type": "x", "pattern": "reply", "correlation_id": "m"}
        world.log.is_broken = True
        assert (await world.post(reply, sender="reviewer-0")).status == 503
        world.log.is_broken = False
        assert (await world.post(reply, sender="reviewer-0")).status == 202

    run(scenario)


def test_two_replies_at_once_are_one_reply() -> None:
    async def scenario(world: World) -> None:
        await world.post(note(type="review.request", pattern="request"))
        world.log.gate = asyncio.Event()
        reply = {"type": "x", "pattern": "reply", "correlation_id": "m"}
        both = [asyncio.ensure_future(world.post({**reply, "id": i}, sender="reviewer-0")) for i in "ab"]
        await asyncio.sleep(0.01)
        world.log.gate.set()
        assert sorted(answer.status for answer in await asyncio.gather(*both)) == [202, 409]
        assert len(world["writer-0"].mailbox) == 1

    run(scenario)


def test_two_replies_that_policy_ponders_at_once_are_one_reply() -> None:
    async def scenario(world: World) -> None:
        await world.post(note(type="review.request", pattern="request"))
        engine = SlowEngine()
        world.route.rules = replace(world.route.rules, engines=(engine,))
        reply = {"type": "x", "pattern": "reply", "correlation_id": "m"}
        both = [asyncio.ensure_future(world.post({**reply, "id": i}, sender="reviewer-0")) for i in "ab"]
        await asyncio.sleep(0.01)
        engine.gate.set()
        assert sorted(answer.status for answer in await asyncio.gather(*both)) == [202, 409]
        assert len(world["writer-0"].mailbox) == 1

    run(scenario)


def test_a_reply_that_becomes_late_while_policy_ponders_is_refused_with_a_row() -> None:
    async def scenario(world: World) -> None:
        await world.post(note(type="review.request", pattern="request"))
        engine = SlowEngine()
        world.route.rules = replace(world.route.rules, engines=(engine,))
        reply = {"id": "r", "type": "x", "pattern": "reply", "correlation_id": "m"}
        posted = asyncio.ensure_future(world.post(reply, sender="reviewer-0"))
        await asyncio.sleep(0.01)
        request = world.route.requests.find(world["reviewer-0"], "m", None)
        assert request is not None
        request.deadline = 0.0
        engine.gate.set()
        assert ((await posted).status, world.waiting()) == (410, 1)
        assert [(row.verdict, row.code) for row in world.log.rows][1:] == [("deny", "expired")]

    run(scenario)


def test_a_forgery_that_cannot_be_logged_is_told_of_the_next_time() -> None:
    async def scenario(world: World) -> None:
        forged = note(**{"from": "reviewer"})
        world.log.is_broken = True
        assert (await world.post(forged)).status == 503
        assert (world.log.inbox, world.hints) == ([], [])
        world.log.is_broken = False
        assert [(await world.post(forged)).status for _ in range(2)] == [403, 403]
        assert ([entry.type for entry in world.log.inbox], world.hints) == (["hub.forged"], ["task"])

    run(scenario)


envelopes = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b", "c"]),
        "type": st.sampled_from(
            ["review.note", "review.request", "docs.published", "task.started", "agent.hello", "?"]
        ),
        "pattern": st.sampled_from(["event", "request", "reply"]),
    },
    optional={
        "to": st.sampled_from(["reviewer", "writer", "hub", "nobody", "reviewer/reviewer-0"]),
        "topic": st.sampled_from(["docs.new", "news"]),
        "correlation_id": st.sampled_from(["a", "b"]),
        "from": st.sampled_from(["writer", "reviewer"]),
        "payload": st.sampled_from([None, {"task": "t", "run": "r", "generation": 1}, "x"]),
    },
)
senders = st.sampled_from(["writer-0", "reviewer-0", "archive-0"])
tokens = st.sampled_from([TOKEN, TOKEN, TOKEN, "wrong"])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(senders, envelopes, tokens), max_size=15))
def test_no_delivery_without_an_allow_and_no_verdict_without_a_row(
    posts: list[tuple[str, dict[str, object], str]],
) -> None:
    async def scenario(world: World) -> None:
        for sender, fields, token in posts:
            rows, counted, delivered, inbox = (
                len(world.log.rows),
                len(world.log.counted),
                world.waiting(),
                len(world.log.inbox),
            )
            answer = await world.post(fields, sender=sender, token=token)
            new = world.log.rows[rows:]
            assert len(new) + len(world.log.counted) - counted == 1, "one verdict, one row or one count"
            reported = [entry for entry in world.log.inbox[inbox:] if entry.type != "hub.forged"]
            if world.waiting() > delivered or reported:
                assert [row.verdict for row in new] == ["allow"]
                assert answer.status == 202
            if answer.status >= 300:
                assert world.waiting() == delivered
                assert [row.verdict for row in new] in ([], ["deny"])
        assert world.reserved() == 0

    run(scenario)
