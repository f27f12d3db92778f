"""Rego in the router's own worker: real decisions, swaps, a rule that never ends, and a worker that dies."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import PolicyEngineError
from reconciler.router.channel import RefusedByRouterError
from reconciler.router.config import PolicyEntry, RefusedError
from reconciler.router.embedded import EmbeddedEngine, start_embedded
from reconciler.router.writer import PROCESS_NAME
from tests.router.fleet import Fleet, until

ALLOW_PUBLIC = """package hub.message
import rego.v1
default decision := {"allow": false, "reasons": ["not public"]}
decision := {"allow": true, "reasons": []} if input.message.sensitivity == "public"
decision := {"allow": true, "reasons": []} if input.recipient.kind == "hub"
"""
SLOW = """package hub.message
import rego.v1
decision := {"allow": true, "reasons": []} if {
    count([1 | some a in numbers.range(1, 100000); some b in numbers.range(1, 100000); a == b]) > input.n
}
"""


def policy(text: str, digest: str) -> dict[str, Any]:
    return {"digest": digest, "modules": {"policies/message.rego": text}, "data": {"hub": {"revision": digest}}}


def entry(text: str, digest: str = "d1") -> PolicyEntry:
    return PolicyEntry(**policy(text, digest))


def question(sensitivity: str, n: int = 0) -> dict[str, Any]:
    return {"message": {"sensitivity": sensitivity}, "recipient": {"kind": "agent"}, "n": n}


async def start(text: str, *, deadline_s: float = 2.0) -> EmbeddedEngine:
    engine = await start_embedded(entry(text), deadline_s=deadline_s)
    assert engine is not None
    return engine


def test_it_decides_by_the_rego_it_was_given() -> None:
    async def scenario() -> None:
        engine = await start(ALLOW_PUBLIC)
        try:
            allowed = await engine.decide("message", question("public"))
            denied = await engine.decide("message", question("internal"))
        finally:
            await engine.close()
        assert (allowed.allow, allowed.engine, allowed.revision) == (True, "embedded", "d1")
        assert (denied.allow, denied.reasons) == (False, ("not public",))

    asyncio.run(scenario())


def test_many_questions_at_once_get_their_own_answers() -> None:
    async def scenario() -> None:
        engine = await start(ALLOW_PUBLIC)
        try:
            kinds = ["public", "internal"] * 50
            decisions = await asyncio.gather(
                *(engine.decide("message", question(k, n % 7)) for n, k in enumerate(kinds))
            )
        finally:
            await engine.close()
        assert [d.allow for d in decisions] == [k == "public" for k in kinds]

    asyncio.run(scenario())


def test_a_rule_that_takes_too_long_is_killed_and_the_worker_replaced() -> None:
    async def scenario() -> None:
        engine = await start(SLOW, deadline_s=0.3)
        try:
            began = time.monotonic()
            with pytest.raises(PolicyEngineError, match="deadline"):
                await engine.decide("message", question("public"))
            assert time.monotonic() - began < 30
            with pytest.raises(PolicyEngineError):
                await engine.decide("message", question("public", 1))
            end = time.monotonic() + 60
            while True:
                try:
                    await engine.decide("message", question("public"))
                except PolicyEngineError as error:
                    if "deadline" in str(error):
                        break  # a new worker was at it
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
        finally:
            await engine.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "text", ["package hub.message\nnot rego", "package hub.message\ndecision := undefined_ref.x + 1 {"]
)
def test_a_policy_that_does_not_compile_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="policy: "):
        asyncio.run(start_embedded(entry(text)))


def test_a_policy_whose_revision_is_not_its_digest_is_refused() -> None:
    broken = PolicyEntry(digest="d1", modules={"a.rego": ALLOW_PUBLIC}, data={"hub": {"revision": "d2"}})
    with pytest.raises(RefusedError, match=r"hub\.revision"):
        asyncio.run(start_embedded(broken))


def test_a_policy_without_rules_for_messages_leaves_them_to_builtin() -> None:
    text = 'package hub.task\nimport rego.v1\ndecision := {"allow": true, "reasons": []}\n'
    assert asyncio.run(start_embedded(entry(text))) is None


def test_the_router_asks_rego_and_swaps_it(fleet: Fleet) -> None:
    fleet.configure(rules={"engines": ["embedded", "builtin"]}, policy=policy(ALLOW_PUBLIC, "p1"))
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    assert fleet.report().policy_revision == "p1"
    assert writer.send("any.type", to="reviewer", sensitivity="public").status == 202
    assert writer.send("review.note", to="reviewer").code == "unknown_or_forbidden_recipient"
    rows = fleet.rows("recipient='reviewer'")
    assert [(r["verdict"], r["engine"], r["policy_revision"]) for r in rows] == [
        ("allow", "embedded", "p1"),
        ("deny", "embedded", "p1"),
    ]
    assert rows[1]["reason"] == "not public"

    with pytest.raises(RefusedByRouterError, match="policy: "):
        fleet.link.configure({**fleet.config, "policy": policy("package hub.message\nnot rego", "p2")})
    assert fleet.report().policy_revision == "p1"

    fleet.configure(policy=policy(ALLOW_PUBLIC.replace('"public"', '"internal"'), "p3"))
    assert fleet.report().policy_revision == "p3"
    assert writer.send("review.note", to="reviewer").status == 202
    assert [m["type"] for m in reviewer.receive() if m["from"] != "hub"] == ["any.type", "review.note"]


def test_when_the_worker_is_gone_builtin_answers_until_it_is_back(fleet: Fleet) -> None:
    fleet.configure(rules={"engines": ["embedded", "builtin"]}, policy=policy(ALLOW_PUBLIC, "gone"))
    writer, _ = fleet.register("writer-0"), fleet.register("reviewer-0")
    fleet.link.wait_hint(0)
    router = fleet.report().pid

    def is_passed_on() -> bool:
        kill_workers(router)
        return writer.send("review.note", to="reviewer").status == 202

    until(is_passed_on)
    assert fleet.rows("type='review.note' AND verdict='allow'")[0]["engine"] == "builtin"
    until(lambda: writer.send("any.type", to="reviewer", sensitivity="public").status == 202)
    assert fleet.rows("type='any.type' AND verdict='allow'")[-1]["engine"] == "embedded"
    assert fleet.state()["modes"] == []
    assert "router" in fleet.link.wait_hint(1)


def test_what_was_decided_before_is_given_while_the_worker_is_gone(fleet: Fleet) -> None:
    fleet.configure(rules={"engines": ["embedded", "builtin"]}, policy=policy(ALLOW_PUBLIC, "kept"))
    writer, _ = fleet.register("writer-0"), fleet.register("reviewer-0")
    questions = {"any.type": ("public", 202), "review.note": ("internal", 403)}
    for type_, (sensitivity, status) in questions.items():
        assert writer.send(type_, to="reviewer", sensitivity=sensitivity).status == status
    for type_, (sensitivity, status) in questions.items():
        kill_workers(fleet.report().pid)
        assert writer.send(type_, to="reviewer", sensitivity=sensitivity).status == status
        assert [(r["engine"], r["policy_revision"], r["cached"]) for r in fleet.rows("type=?", type_)] == [
            ("embedded", "kept", 0),
            ("embedded", "kept", 1),
        ]


def test_the_worker_ends_with_its_policy(fleet: Fleet) -> None:
    fleet.configure(rules={"engines": ["embedded", "builtin"]}, policy=policy(ALLOW_PUBLIC, "p1"))
    pid = fleet.report().pid
    assert len(workers(pid)) == 1
    fleet.configure(policy=None)
    until(lambda: workers(pid) == [])
    assert fleet.report().policy_revision == "builtin"


def kill_workers(pid: int) -> None:
    for worker in workers(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def workers(pid: int) -> list[int]:
    """The policy workers among the router's children, which the log's writer is one of."""
    children = [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]
    return [child for child in children if not _is_writer(child)]


def _is_writer(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == f"{PROCESS_NAME}\n"
    except OSError:
        return False
