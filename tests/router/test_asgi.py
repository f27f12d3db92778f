"""The agent plane: polling, acknowledging, who am I, and clients that go away."""

import socket
import threading
import time

import pytest

from tests.router.fleet import Fleet, Reply, until


def test_a_poll_waits_until_there_is_something(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    out: list[Reply] = []
    thread = threading.Thread(target=lambda: out.append(reviewer.poll(wait_s=10)))
    thread.start()
    until(lambda: fleet.state()["instances"]["reviewer-0"]["polls"] == 1)
    writer.send("review.note", to="reviewer", payload=1)
    thread.join(timeout=5)
    assert [m["payload"] for m in out[0].body["messages"]] == [1]


def test_a_poll_without_waiting_is_answered_at_once_and_empty(fleet: Fleet) -> None:
    reply = fleet.register("reviewer-0").poll()
    assert (reply.status, reply.body["messages"]) == (200, [])


def test_a_poll_ends_after_its_time(fleet: Fleet) -> None:
    reviewer = fleet.register("reviewer-0")
    began = time.monotonic()
    assert reviewer.poll(wait_s=0.3).body["messages"] == []
    assert 0.25 < time.monotonic() - began < 3


def test_unacknowledged_messages_come_again_after_the_lease_even_to_a_waiting_poll(fleet: Fleet) -> None:
    fleet.configure(limits={"lease_s": 0.4})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    writer.send("review.note", to="reviewer", payload=1)
    first = reviewer.poll()
    assert reviewer.poll().body["messages"] == []
    again = reviewer.poll(wait_s=10)
    assert again.body["messages"] == first.body["messages"] != []


def test_a_poll_acknowledges_by_cursor(fleet: Fleet) -> None:
    fleet.configure(limits={"lease_s": 0.2})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    for n in range(3):
        writer.send("review.note", to="reviewer", payload=n)
    first = reviewer.poll(max_=2)
    assert [m["payload"] for m in first.body["messages"]] == [0, 1]
    second = reviewer.poll(ack=first.body["cursor"])
    assert [m["payload"] for m in second.body["messages"]] == [2]
    assert [m["payload"] for m in reviewer.poll(wait_s=5).body["messages"]] == [2]
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
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(10)
        link.connect(str(writer.socket_path))
        link.sendall(b"GET / HTTP/1.1\r\nx: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            link.sendall(b"y" * 1_000_000)
    assert writer.call("GET", "/api/hub/self").status == 200


def test_one_instance_has_a_bounded_number_of_connections(fleet: Fleet) -> None:
    writer, other = fleet.register("writer-0"), fleet.register("writer-1")
    links = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(300)]
    try:
        for link in links:
            link.connect(str(writer.socket_path))
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
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(10)
        link.connect(str(writer.socket_path))
        link.sendall(request * 3)
        received = b""
        while received.count(b'"instance":"writer-0"') < 3:
            part = link.recv(65536)
            assert part
            received += part
    assert received.count(b"HTTP/1.1 200 OK") == 3
