"""The control socket: what it refuses, what stays in force then, and what a swap does to a stream."""

import json
import stat
import threading
import time
from collections.abc import Iterable

import pytest

from reconciler.errors import RouterError
from reconciler.router.channel import RefusedByRouterError, call
from tests.router.fleet import Agent, Fleet, Reply, instance_entry, read_reply, until


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"unknown": 1}, "unknown"),
        ({"limits": {"mailbox_messages": 0}}, "$.limits.mailbox_messages"),
        ({"limits": {"lease_s": "30s"}}, "$.limits.lease_s"),
        ({"log": {"payload": "all"}}, "$.log.payload"),
        ({"rules": {"engines": ["magic"]}}, "$.rules.engines"),
        ({"agents": {"Writer": {}}}, "$.agents"),
        ({"agents": {"hub": {}}}, "agents.hub"),
        ({"agents": {"writer": {"sends": [{"types": ["a"]}]}}}, "agents.writer.sends[0]"),
        ({"agents": {"writer": {"sends": [{"to": "a", "topic": "b"}]}}}, "agents.writer.sends[0]"),
        ({"agents": {"writer": {"subscribes": [{"topic": "a..b"}]}}}, "topic"),
        ({"agents": {"writer": {"subscribes": [{"topic": "a.>.b"}]}}}, "topic"),
        ({"schemas": {"my.type": {"type": "nothing"}}}, "schemas: my.type"),
        ({"policy": {"digest": "x"}}, "modules"),
    ],
)
def test_an_invalid_configuration_is_refused_whole_and_the_old_one_stays(
    fleet: Fleet, section: dict[str, object], named: str
) -> None:
    before = fleet.report().config_digest
    with pytest.raises(RefusedByRouterError) as caught:
        fleet.link.configure({**fleet.config, "digest": "new", **section})
    assert named in str(caught.value)
    assert not caught.value.retryable
    assert fleet.report().config_digest == before
    assert fleet.register("writer-0").call("GET", "/api/hub/self").status == 200


def send_all(agent: Agent, numbers: Iterable[int], accepted: list[int]) -> None:
    """One event for each number, over one connection; again while the mailbox is full."""
    headers = {"Authorization": f"Bearer {agent.token}"}
    with agent.connect() as connection:
        for number in numbers:
            body = json.dumps(
                {"id": f"s-{number}", "type": "review.note", "pattern": "event", "to": "reviewer", "payload": number}
            )
            while True:
                connection.request("POST", "/api/hub/messages", body=body, headers=headers)
                reply = read_reply(connection.getresponse())
                if reply.status != 429:
                    break
                assert reply.code == "mailbox_full"
            assert reply.status == 202, reply
            accepted.append(number)


def test_twenty_swaps_under_ten_thousand_messages_lose_and_double_none(fleet: Fleet) -> None:
    total, swaps, deadline = 10_000, 20, time.monotonic() + 600
    senders = [fleet.register(f"writer-{number}") for number in range(8)]
    reviewer = fleet.register("reviewer-0")
    accepted: list[int] = []
    received: list[int] = []

    def read() -> None:
        cursor = None
        while len(received) < total and time.monotonic() < deadline:
            polled = reviewer.poll(wait_s=1, ack=cursor)
            cursor = polled.body["cursor"]
            received.extend(message["payload"] for message in polled.body["messages"])
        reviewer.poll(ack=cursor)

    threads = [
        threading.Thread(target=send_all, args=(sender, range(first, total, len(senders)), accepted))
        for first, sender in enumerate(senders)
    ]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for swap in range(swaps):
        sent = (swap + 1) * total // (swaps + 1)
        until(lambda sent=sent: len(accepted) >= sent, timeout_s=300)  # type: ignore[misc]
        fleet.configure(revision=f"rev{swap}")
    for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
    assert sorted(accepted) == list(range(total))
    assert sorted(received) == list(range(total))
    assert reviewer.receive(wait_s=0) == []
    assert len({row["config_digest"] for row in fleet.rows("type='review.note' AND verdict='allow'")}) > 1


def test_a_swap_changes_who_may_send_at_once(fleet: Fleet) -> None:
    writer, _ = fleet.register("writer-0"), fleet.register("reviewer-0")
    assert writer.send("review.note", to="reviewer").status == 202
    fleet.configure(agents={"writer": {}, "reviewer": {}})
    assert writer.send("review.note", to="reviewer").status == 403


def test_registering_makes_a_private_socket(fleet: Fleet) -> None:
    writer = fleet.register("writer-0", hello=False)
    assert stat.S_IMODE(writer.socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(writer.socket_path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((fleet.run / "control.sock").stat().st_mode) == 0o600


@pytest.mark.skipif("__import__('os').geteuid() != 0")
def test_the_socket_belongs_to_the_instances_uid(fleet: Fleet) -> None:
    entry = {**instance_entry("writer", [("t", time.time() + 10)]), "uid": 1000}
    fleet.link.put_instance("writer-0", entry)
    path = fleet.run / "hub" / "writer-0" / "hub.sock"
    assert (path.stat().st_uid, path.parent.stat().st_uid, path.parent.stat().st_gid) == (1000, 1000, 1000)
    fleet.link.put_instance("writer-0", {**entry, "uid": 1001})
    assert path.stat().st_uid == 1001


def test_registering_again_keeps_connections_and_mailbox(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    writer.send("review.note", to="reviewer", payload=1)
    inode = reviewer.socket_path.stat().st_ino
    fleet.link.put_instance("reviewer-0", instance_entry("reviewer", [(reviewer.token, time.time() + 50)]))
    assert reviewer.socket_path.stat().st_ino == inode
    assert [m["payload"] for m in reviewer.receive()] == [1]


def test_a_socket_that_was_removed_by_hand_is_made_again(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    writer.socket_path.unlink()
    fleet.link.put_instance("writer-0", instance_entry("writer", [(writer.token, time.time() + 50)]))
    assert writer.call("GET", "/api/hub/self").status == 200


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"agent": "writer", "tokens": [{"sha256": "xyz", "expires_at": 1}]},
        {"agent": "writer", "uid": -1},
        {"agent": "Writer"},
        {"agent": "writer", "other": 1},
    ],
)
def test_an_invalid_entry_is_refused(fleet: Fleet, entry: dict[str, object]) -> None:
    with pytest.raises(RefusedByRouterError, match="instances: writer-0"):
        fleet.link.put_instance("writer-0", entry)
    assert fleet.report().instances == {}


@pytest.mark.parametrize("name", ["..", "a/b", "Writer", "x" * 200, "-a", ""])
def test_an_invalid_instance_name_is_refused(fleet: Fleet, name: str) -> None:
    with pytest.raises(RouterError):
        fleet.link.put_instance(name, {"agent": "writer"})
    assert fleet.report().instances == {}


def test_an_instance_does_not_change_hands(fleet: Fleet) -> None:
    fleet.register("writer-0")
    with pytest.raises(RefusedByRouterError, match="belongs to writer"):
        fleet.link.put_instance("writer-0", {"agent": "reviewer"})


def test_removing_revokes_and_closes_what_is_open(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    out: list[Reply | Exception] = []

    def poll() -> None:
        try:
            out.append(writer.poll(wait_s=30))
        except OSError as error:
            out.append(error)

    with writer.connect() as idle:
        idle.request("GET", "/api/hub/self", headers={"Authorization": f"Bearer {writer.token}"})
        idle.getresponse().read()
        thread = threading.Thread(target=poll)
        thread.start()
        until(lambda: fleet.state()["instances"]["writer-0"]["polls"] == 1)
        fleet.link.remove_instance("writer-0")
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert idle.sock.recv(1) == b""
    assert not writer.socket_path.exists()
    with pytest.raises(OSError, match="No such file"):
        writer.connect().__enter__()
    fleet.link.remove_instance("writer-0")


def test_the_hub_sends_to_an_instance_that_has_not_said_hello(fleet: Fleet) -> None:
    writer = fleet.register("writer-0", hello=False)
    payload = {"task": "t", "run": "r", "generation": 1}
    message = {"id": "r-1", "type": "task.assigned", "pattern": "request", "payload": payload}
    fleet.link.send({"instance": "writer-0", "message": message})
    writer.hello()
    (received,) = writer.receive()
    assert (received["from"], received["id"], received["payload"]) == ("hub", "r-1", payload)
    assert (received["to"], received["pattern"]) == ("writer/writer-0", "request")
    (row,) = fleet.rows("msg_id='r-1'")
    assert (row["instance"], row["delivered"], row["verdict"]) == ("hub", "writer-0", "allow")


def test_a_full_mailbox_still_takes_what_the_hub_sends(fleet: Fleet) -> None:
    fleet.configure(limits={"mailbox_messages": 2})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    while writer.send("review.note", to="reviewer").status == 202:
        pass
    notice = {"instance": "reviewer-0", "message": {"type": "notice.planned", "payload": {"revision": "r"}}}
    fleet.link.send(notice)
    fleet.link.send(notice)
    with pytest.raises(RefusedByRouterError, match="full twice over"):
        fleet.link.send(notice)
    assert [m["type"] for m in reviewer.receive()][2:] == ["notice.planned"] * 2


def test_orders_that_no_daemon_takes_are_bounded_too(fleet: Fleet) -> None:
    fleet.configure(limits={"mailbox_messages": 2})
    fleet.register("writer-0", hello=False)
    cancel = {"instance": "writer-0", "message": {"type": "task.cancel", "payload": {}}}
    for _ in range(4):
        fleet.link.send(cancel)
    with pytest.raises(RefusedByRouterError, match="full twice over"):
        fleet.link.send(cancel)


def test_sending_to_an_unknown_instance_is_refused(fleet: Fleet) -> None:
    with pytest.raises(RefusedByRouterError, match="there is no instance nobody-0"):
        fleet.link.send({"instance": "nobody-0", "message": {"type": "task.cancel", "payload": {}}})


def test_hints_come_as_soon_as_there_is_something(fleet: Fleet) -> None:
    fleet.link.wait_hint(0)
    out: list[object] = []
    thread = threading.Thread(target=lambda: out.append(fleet.link.wait_hint(60)))
    thread.start()
    fleet.register("writer-0")
    thread.join(timeout=60)
    assert out == [["agent"]]
    assert fleet.link.wait_hint(0.05) == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/nothing", None),
        ("POST", "/config", {}),
        ("PUT", "/config/x", {}),
        ("DELETE", "/instances", None),
        ("GET", "/hints?wait=x", None),
        ("PUT", "/inbox-cursor", {"seq": -1}),
        ("PUT", "/cancels", []),
    ],
)
def test_what_it_does_not_know_is_refused(fleet: Fleet, method: str, path: str, body: object) -> None:
    with pytest.raises(RefusedByRouterError):
        call(fleet.run, method, path, body)
