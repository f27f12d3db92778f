"""The agent plane: polling, acknowledging, who am I, and clients that go away."""

import contextlib
import ssl
import threading
import time

import pytest

from reconciler.router.channel import call
from tests.router.fleet import Fleet, Reply, both_transports, until

pytestmark = both_transports


def test_a_poll_waits_until_there_is_something(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    out: list[Reply] = []
    thread = threading.Thread(target=lambda: out.append(reviewer.poll(wait_s=25)))
    thread.start()
    until(lambda: fleet.state()["instances"]["reviewer-0"]["polls"] == 1)
    writer.send("review.note", to="reviewer", payload=1)
    thread.join(timeout=60)
    assert [m["payload"] for m in out[0].body["messages"]] == [1]


def test_a_poll_without_waiting_is_answered_at_once_and_empty(fleet: Fleet) -> None:
    reply = fleet.register("reviewer-0").poll()
    assert (reply.status, reply.body["messages"]) == (200, [])


def test_a_poll_ends_after_its_time(fleet: Fleet) -> None:
    reviewer = fleet.register("reviewer-0")
    began = time.monotonic()
    assert reviewer.poll(wait_s=0.3).body["messages"] == []
    assert time.monotonic() - began > 0.25


def test_unacknowledged_messages_come_again_after_the_lease_even_to_a_waiting_poll(fleet: Fleet) -> None:
    fleet.configure(limits={"lease_s": 600})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    writer.send("review.note", to="reviewer", payload="of a long lease")
    assert len(reviewer.poll().body["messages"]) == 1
    assert reviewer.poll().body["messages"] == []
    fleet.configure(limits={"lease_s": 0.4})
    writer.send("review.note", to="reviewer", payload=1)
    first = reviewer.poll()
    again = reviewer.poll(wait_s=25)
    assert again.body["messages"] == first.body["messages"]
    assert [m["payload"] for m in first.body["messages"]] == [1]


def test_a_poll_acknowledges_by_cursor(fleet: Fleet) -> None:
    fleet.configure(limits={"lease_s": 0.2})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    for n in range(3):
        writer.send("review.note", to="reviewer", payload=n)
    first = reviewer.poll(max_=2)
    assert [m["payload"] for m in first.body["messages"]] == [0, 1]
    second = reviewer.poll(ack=first.body["cursor"])
    assert [m["payload"] for m in second.body["messages"]] == [2]
    assert [m["payload"] for m in reviewer.poll(wait_s=25).body["messages"]] == [2]
    assert reviewer.call("POST", "/api/hub/messages/ack", {"cursor": second.body["cursor"]}).status == 204
    assert reviewer.poll(wait_s=0.4).body["messages"] == []


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"cursor":7}', b'{"cursor":"x"}', b"[" * 5000, b'{"cursor":"a.1","b":1}']
)
def test_what_is_no_cursor_is_refused(fleet: Fleet, body: bytes) -> None:
    reviewer = fleet.register("reviewer-0")
    assert reviewer.call("POST", "/api/hub/messages/ack", body).code == "invalid_envelope"


@pytest.mark.parametrize(
    "query", ["wait=x", "wait=-1", "wait=nan", "max=0", "max=x", "ack=nothing", "ack=", "wait=", "wiat=5"]
)
def test_a_query_that_makes_no_sense_is_refused(fleet: Fleet, query: str) -> None:
    reviewer = fleet.register("reviewer-0")
    assert reviewer.call("GET", f"/api/hub/messages?{query}").code == "invalid_envelope"


def test_self_says_who_one_is_and_what_one_may_do(fleet: Fleet) -> None:
    shown = fleet.register("writer-0").call("GET", "/api/hub/self").body
    assert (shown["agent"], shown["instance"], shown["role"], shown["revision"]) == (
        "writer",
        "writer-0",
        "writer",
        "rev0",
    )
    assert shown["grants"]["sends"][0] == {"to": "reviewer", "types": ["review.request", "review.note"]}
    assert shown["policy_revision"] == "builtin"
    subscribes = fleet.register("reviewer-0").call("GET", "/api/hub/self").body["grants"]["subscribes"]
    assert subscribes == [{"topic": "docs.*", "delivery": "one"}]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/report", 404), ("DELETE", "/api/hub/messages", 405), ("POST", "/api/hub/self", 405)],
)
def test_there_is_nothing_else(fleet: Fleet, method: str, path: str, status: int) -> None:
    assert fleet.register("writer-0").call(method, path).status == status


def test_a_poll_whose_client_vanishes_leaves_nothing_behind(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")

    def polls() -> int:
        return int(fleet.state()["instances"]["reviewer-0"]["polls"])

    with reviewer.connect() as connection:
        connection.request("GET", "/api/hub/messages?wait=30", headers={"Authorization": f"Bearer {reviewer.token}"})
        until(lambda: polls() == 1)
    until(lambda: polls() == 0)
    writer.send("review.note", to="reviewer", payload=1)
    assert [m["payload"] for m in reviewer.receive(wait_s=0)] == [1]


def test_a_waiting_request_whose_client_vanishes_gets_its_reply_in_the_mailbox(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    with writer.connect() as connection:
        body = b'{"id":"gone","type":"review.request","pattern":"request","to":"reviewer"}'
        headers = {"Authorization": f"Bearer {writer.token}"}
        connection.request("POST", "/api/hub/messages?wait=30", body=body, headers=headers)
        (request,) = reviewer.receive()
    until(lambda: fleet.state()["instances"]["writer-0"]["lines"] == 0)
    reviewer.send("review.result", "reply", correlation_id=request["id"], payload="late but safe")
    assert [m["payload"] for m in writer.receive()] == ["late but safe"]


def test_a_client_that_sends_half_a_message_and_leaves_is_forgotten(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    with writer.connect() as connection:
        connection.putrequest("POST", "/api/hub/messages")
        connection.putheader("Authorization", f"Bearer {writer.token}")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b'{"id":')
        until(lambda: fleet.state()["instances"]["writer-0"]["in_flight_bytes"] == 1000)
    until(lambda: fleet.state()["instances"]["writer-0"]["in_flight_bytes"] == 0)
    assert fleet.state()["instances"]["writer-0"]["lines"] == 0


def test_endless_headers_end_the_connection(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    with writer.dial() as link:
        link.sendall(b"GET / HTTP/1.1\r\nx: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError, ssl.SSLError)):
            while True:
                link.sendall(b"y" * 100_000)
    assert writer.call("GET", "/api/hub/self").status == 200


def test_one_instance_has_a_bounded_number_of_connections(fleet: Fleet) -> None:
    writer, other = fleet.register("writer-0"), fleet.register("writer-1")
    request = f"GET /api/hub/self HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {writer.token}\r\n\r\n".encode()
    links = []
    try:
        for _ in range(260):
            links.append(writer.dial())
            with contextlib.suppress(OSError):
                links[-1].sendall(request)
                links[-1].recv(65536)
        until(lambda: fleet.state()["instances"]["writer-0"]["lines"] == 256)
        assert other.call("GET", "/api/hub/self").status == 200
    finally:
        for link in links:
            link.close()
    until(lambda: fleet.state()["instances"]["writer-0"]["lines"] == 0)
    assert writer.call("GET", "/api/hub/self").status == 200


def test_several_requests_share_a_connection_also_pipelined(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    request = f"GET /api/hub/self HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {writer.token}\r\n\r\n".encode()
    with writer.dial() as link:
        link.sendall(request * 3)
        received = b""
        while received.count(b'"instance":"writer-0"') < 3:
            part = link.recv(65536)
            assert part
            received += part
    assert received.count(b"HTTP/1.1 200 OK") == 3


def assign(fleet: Fleet, to: str) -> None:
    message = {"type": "task.assigned", "pattern": "request", "payload": {"task": "t", "run": "r", "generation": 1}}
    fleet.link.send({"instance": to, "message": message})


def test_a_daemon_that_takes_only_tasks_leaves_all_else_to_its_command(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0", hello=False)
    assert reviewer.hello(takes="tasks").status == 200
    writer.send("review.note", to="reviewer", payload=1)
    assign(fleet, "reviewer-0")
    fleet.link.send({"instance": "reviewer-0", "message": {"type": "notice.planned", "payload": 2}})
    daemon, command = reviewer.poll(only="tasks"), reviewer.poll()
    assert [m["type"] for m in daemon.body["messages"]] == ["task.assigned"]
    assert [m["payload"] for m in command.body["messages"]] == [1, 2]
    assert reviewer.poll(only="tasks").body["messages"] == reviewer.poll().body["messages"] == []
    assert fleet.report().instances["reviewer-0"].mailbox_messages == 3


def test_neither_acknowledges_what_the_other_has(fleet: Fleet) -> None:
    fleet.configure(limits={"lease_s": 0.3})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0", hello=False)
    reviewer.hello(takes="tasks")
    for n in range(3):
        writer.send("review.note", to="reviewer", payload=n)
    assign(fleet, "reviewer-0")
    daemon, command = reviewer.poll(only="tasks"), reviewer.poll()
    reviewer.poll(only="tasks", ack=daemon.body["cursor"])
    assert [m["payload"] for m in reviewer.poll(wait_s=25).body["messages"]] == [0, 1, 2]
    assert reviewer.call("POST", "/api/hub/messages/ack", {"cursor": command.body["cursor"]}).status == 204
    assert reviewer.poll(wait_s=0.5).body["messages"] == []
    assert fleet.report().instances["reviewer-0"].mailbox_messages == 0


def test_each_of_the_two_is_woken_by_what_is_its_own(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0", hello=False)
    reviewer.hello(takes="tasks")
    woken: dict[str, list[str]] = {}

    def wait(only: str) -> None:
        woken[only] = [m["type"] for m in reviewer.poll(wait_s=25, only=only).body["messages"]]

    threads = {only: threading.Thread(target=wait, args=(only,)) for only in ("tasks", "")}
    for nth, only in enumerate(threads, 1):
        threads[only].start()
        until(lambda nth=nth: fleet.state()["instances"]["reviewer-0"]["polls"] == nth)  # type: ignore[misc]
    writer.send("review.note", to="reviewer")
    threads[""].join(timeout=60)
    assert woken == {"": ["review.note"]}
    assign(fleet, "reviewer-0")
    threads["tasks"].join(timeout=60)
    assert woken == {"": ["review.note"], "tasks": ["task.assigned"]}


def test_a_command_never_gets_a_task_also_before_its_daemon_has_said_hello(fleet: Fleet) -> None:
    reviewer = fleet.register("reviewer-0", hello=False)
    assign(fleet, "reviewer-0")
    assert reviewer.poll().body["messages"] == []
    reviewer.hello(takes="tasks")
    assert reviewer.poll().body["messages"] == []
    assert len(reviewer.poll(only="tasks").body["messages"]) == 1


def test_a_daemon_that_does_not_say_what_it_takes_takes_everything(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0", hello=False)
    assign(fleet, "reviewer-0")
    reviewer.hello()
    writer.send("review.note", to="reviewer")
    assign(fleet, "reviewer-0")
    assert [m["type"] for m in reviewer.receive()] == ["task.assigned", "review.note", "task.assigned"]
    assert reviewer.poll(only="tasks").body["messages"] == []


def test_what_else_than_tasks_cannot_be_asked_for(fleet: Fleet) -> None:
    reply = fleet.register("reviewer-0").poll(only="events")
    assert (reply.status, reply.code) == (400, "invalid_envelope")
    assert "only, which is tasks" in reply.body["reason"]


def test_assignments_come_also_where_other_messages_fill_the_mailbox(fleet: Fleet) -> None:
    fleet.configure(limits={"mailbox_messages": 2})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0", hello=False)
    reviewer.hello(takes="tasks")
    assert [writer.send("review.note", to="reviewer").status for _ in range(3)] == [202, 202, 429]
    for _ in range(2):
        fleet.link.send({"instance": "reviewer-0", "message": {"type": "notice.planned", "payload": 1}})
    assign(fleet, "reviewer-0")
    assert len(reviewer.poll(only="tasks").body["messages"]) == 1


def test_what_nobody_takes_in_time_has_a_row_but_for_what_the_hub_tells_everybody(fleet: Fleet) -> None:
    fleet.configure(limits={"ttl_s": 0.3})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0", hello=False)
    reviewer.hello(takes="tasks")
    writer.send("review.note", to="reviewer")
    assign(fleet, "reviewer-0")
    fleet.link.send({"instance": "reviewer-0", "message": {"type": "policy.changed", "payload": {"revision": "r"}}})
    order = {"message": {"type": "notice.planned", "payload": 1}, "instance": "reviewer-0", "actor": "uid:0"}
    call(fleet.run, "POST", "/messages", order)
    until(lambda: fleet.report().instances["reviewer-0"].mailbox_messages == 0)
    until(lambda: len(fleet.rows("verdict='expired'")) >= 3)
    reasons = [row["reason"] for row in fleet.rows("verdict='expired'")]
    assert sorted(reasons) == [
        "a message of hub was not taken in time",
        "a message of hub/operator was not taken in time",
        "a message of writer-0 was not taken in time",
    ]
