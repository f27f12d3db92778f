"""Quotas over the real route: who is over gets a 429 with all it needs to know, and nobody else notices."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from reconciler.router.listener import Door, make_http_config
from reconciler.router.rim import Receive, Scope, Send
from tests.router.fleet import Agent, Fleet, basic_config, both_transports

FAST = {"messages_per_s": 1000.0, "bytes_per_s": 1e9}
ALERT = "code='rate_limited' AND reason IS NOT NULL"


def limit(fleet: Fleet, *, rate: dict[str, Any] | None = None, **of_writer: object) -> None:
    """A rate for all, and what the writer's manifest says."""
    agents = basic_config()["agents"]
    fleet.configure(limits={"rate": rate or FAST}, agents={**agents, "writer": {**agents["writer"], **of_writer}})


def note(agent: Agent, **fields: object) -> int:
    return agent.send("review.note", to="reviewer", **fields).status


@both_transports
def test_over_the_quota_is_a_429_that_says_how_much_and_when(fleet: Fleet) -> None:
    limit(fleet, quota={"messages_per_s": 0.05, "bytes_per_s": 1000.0})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    assert [note(writer) for _ in range(3)] == [202] * 3
    reply = writer.send("review.note", to="reviewer")
    assert (reply.status, reply.code, reply.body["step"]) == (429, "rate_limited", "rate")
    assert reply.body["reason"] == "more than 3 messages in 60 s or 60000 bytes in 60 s"
    assert 10 <= int(reply.headers["Retry-After"]) == reply.body["retry_after_s"] <= 20
    assert reply.headers["RateLimit-Policy"] == '"messages";q=3;w=60,"bytes";q=60000;qu="content-bytes";w=60'
    assert reply.headers["RateLimit"].startswith('"messages";r=0;t=')


def test_what_the_manifest_leaves_out_is_as_in_hub_yaml(fleet: Fleet) -> None:
    limit(fleet, rate={"messages_per_s": 1000.0, "bytes_per_s": 50.0}, quota={"messages_per_s": 100.0})
    policy = fleet.register("writer-0").call("GET", "/api/hub/self").headers["RateLimit-Policy"]
    assert policy == '"messages";q=6000;w=60,"bytes";q=3000;qu="content-bytes";w=60'


def test_self_tells_what_is_left(fleet: Fleet) -> None:
    limit(fleet, quota={"messages_per_s": 0.05})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    note(writer)
    reply = writer.call("GET", "/api/hub/self")
    assert reply.body["quota_left"]["messages"] == 2
    assert reply.headers["RateLimit"].startswith('"messages";r=2;t=40,"bytes";r=')
    fleet.configure(limits={})
    reply = writer.call("GET", "/api/hub/self")
    assert reply.body["quota_left"] is None
    assert "RateLimit" not in reply.headers


def test_heartbeats_and_results_are_not_paid_from_the_quota(fleet: Fleet) -> None:
    limit(fleet, quota={"messages_per_s": 0.02})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    assert [note(writer), note(writer)] == [202, 429]
    for _ in range(10):
        assert writer.send("agent.heartbeat", to="hub", payload={"tasks": []}).status == 202
    done = {"task": "t", "run": "r", "generation": 1, "exit_code": 0, "result": None, "artefacts": []}
    assert writer.send("task.completed", to="hub", payload=done).status == 202
    assert note(writer) == 429


@both_transports
def test_bytes_count_too(fleet: Fleet) -> None:
    limit(fleet, quota={"bytes_per_s": 100.0})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    assert [note(writer, payload="x" * 4000), note(writer, payload="x" * 4000)] == [202, 429]
    assert note(writer, payload="x") == 202


def test_a_type_may_have_a_limit_of_its_own(fleet: Fleet) -> None:
    limit(fleet, quota_by_type={"review.note": {"messages_per_s": 0.02}})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    assert [note(writer), note(writer)] == [202, 429]
    assert writer.send("review.request", "request", to="reviewer").status == 202
    assert "(review.note)" in writer.send("review.note", to="reviewer").body["reason"]


def test_malformed_messages_are_paid_for_and_each_instance_has_its_own_quota(fleet: Fleet) -> None:
    limit(fleet, quota={"messages_per_s": 0.05})
    first, second = fleet.register("writer-0"), fleet.register("writer-1")
    fleet.register("reviewer-0")
    assert [first.call("POST", "/api/hub/messages", b"{").status for _ in range(4)] == [400, 400, 400, 429]
    assert note(second) == 202


def test_a_quota_of_nothing_stops_an_agent_but_not_its_heartbeat(fleet: Fleet) -> None:
    limit(fleet, quota={"messages_per_s": 0.0})
    writer = fleet.register("writer-0")
    reply = writer.send("review.note", to="reviewer")
    assert (reply.status, reply.headers["Retry-After"]) == (429, None)
    assert writer.send("agent.heartbeat", to="hub", payload={"tasks": []}).status == 202


def test_another_configuration_holds_at_once(fleet: Fleet) -> None:
    limit(fleet, quota={"messages_per_s": 0.02})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    assert [note(writer), note(writer)] == [202, 429]
    limit(fleet)
    assert note(writer) == 429
    fleet.configure(limits={})
    assert [note(writer) for _ in range(5)] == [202] * 5


def test_denials_are_counted_and_thirty_in_a_minute_are_told_once(fleet: Fleet) -> None:
    limit(fleet, quota={"messages_per_s": 0.02})
    writer = fleet.register("writer-50")
    fleet.register("reviewer-0")
    while fleet.link.wait_hint(0):
        pass
    assert [note(writer) for _ in range(40)] == [202] + [429] * 39
    assert fleet.link.wait_hint(60) == ["task"]
    (alert,) = fleet.rows(ALERT)
    assert (alert["instance"], alert["verdict"], alert["count"]) == ("writer-50", "deny", 1)
    assert "30 messages over the rate within a minute" in alert["reason"]
    inbox = fleet.link.read_inbox(fleet.inbox_since, 10)
    assert [(entry.type, entry.instance) for entry in inbox] == [("hub.flood", "writer-50")]
    assert len(fleet.rows("instance='writer-50' AND verdict='deny'")) < 30


@both_transports
def test_a_flood_of_one_agent_leaves_another_its_time(fleet: Fleet) -> None:
    limit(fleet, rate=FAST, quota={"messages_per_s": 0.02})
    flood, other, reviewer = fleet.register("writer-0"), fleet.register("archive-0"), fleet.register("reviewer-0")
    is_over = threading.Event()

    def send_on() -> None:
        with flood.connect() as connection:
            while not is_over.is_set():
                body = json.dumps(flood.envelope("review.note", to="reviewer"))
                headers = {"Authorization": f"Bearer {flood.token}"}
                connection.request("POST", "/api/hub/messages", body=body, headers=headers)
                connection.getresponse().read()

    threads = [threading.Thread(target=send_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        statuses = [other.send("agent.heartbeat", to="hub", payload={"tasks": []}).status for _ in range(30)]
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert statuses == [202] * 30
    assert len(reviewer.receive(wait_s=0)) == 1


# --- one connection ---------------------------------------------------------------------------------------------------


@pytest.fixture
def socket_path(run_folder: Path) -> Path:
    (run_folder / "hub" / "a-0").mkdir(parents=True)
    return run_folder / "hub" / "a-0" / "hub.sock"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def open_line(socket_path: Path) -> tuple[Door, Any, asyncio.StreamReader, asyncio.StreamWriter]:
    door = Door(socket_path, make_http_config(app), max_lines=4)
    await door.open(None)
    reader, writer = await asyncio.open_unix_connection(str(socket_path))
    while not door.state.connections:
        await asyncio.sleep(0)
    return door, next(iter(door.state.connections)), reader, writer


def test_a_connection_that_goes_on_over_the_rate_is_not_read_for_a_while(socket_path: Path) -> None:
    async def main() -> None:
        door, line, reader, writer = await open_line(socket_path)
        states = []
        for now in (0.0, 1.0, 2.0, 2.5):
            line.note_denial(now)
            states.append(line.transport.is_reading())
        assert states == [True, True, False, False]
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        assert line.transport.is_reading()
        writer.close()
        door.close()
        await door.finish()

    asyncio.run(main())


def test_a_connection_that_ends_while_it_is_not_read_leaves_no_timer(socket_path: Path) -> None:
    async def main() -> None:
        door, line, _, writer = await open_line(socket_path)
        for now in (0.0, 1.0, 2.0):
            line.note_denial(now)
        line.drop()
        while not line.is_lost:
            await asyncio.sleep(0)
        line.note_denial(3.0)
        writer.close()
        door.close()
        await door.finish()

    asyncio.run(main())


def test_a_head_that_does_not_come_to_its_end_ends_the_connection(socket_path: Path) -> None:
    async def main() -> None:
        door, line, reader, writer = await open_line(socket_path)
        now = door.loop.time()
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readline()
        door.drop_slow(now + 3600)
        assert not line.is_lost
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        while not line._is_in_head:
            await asyncio.sleep(0)
        door.drop_slow(now + 10)
        await asyncio.sleep(0)
        assert not line.is_lost
        door.drop_slow(now + 60)
        while not line.is_lost:
            await asyncio.sleep(0)
        writer.close()
        door.close()
        await door.finish()

    asyncio.run(main())


def test_a_connection_on_which_nothing_ever_comes_is_ended_too(socket_path: Path) -> None:
    async def main() -> None:
        door, line, _, writer = await open_line(socket_path)
        door.drop_slow(door.loop.time() + 60)
        while not line.is_lost:
            await asyncio.sleep(0)
        writer.close()
        door.close()
        await door.finish()

    asyncio.run(main())
