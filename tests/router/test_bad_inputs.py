"""Each bad input of the route, through the socket: what is answered, what stands in the log, and who goes on."""

import json
import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.router.fleet import Agent, Fleet, both_transports, until

NOTE = b'{"id":"m","type":"review.note","pattern":"event","to":"reviewer","payload":'


def post(agent: Agent, body: bytes) -> tuple[int, str]:
    reply = agent.call("POST", "/api/hub/messages", body)
    return reply.status, reply.code


# --- who it is --------------------------------------------------------------------------------------------------------


@both_transports
def test_a_revoked_token_is_refused_at_once_on_a_connection_that_is_open(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    headers = {"Authorization": f"Bearer {writer.token}"}
    with writer.connect() as connection:
        connection.request("GET", "/api/hub/self", headers=headers)
        assert connection.getresponse().read()
        fleet.register("writer-0", hello=False)
        connection.request("GET", "/api/hub/self", headers=headers)
        assert connection.getresponse().status == 401


def test_a_token_of_a_removed_instance_is_refused_wherever_it_is_shown(fleet: Fleet) -> None:
    writer, other = fleet.register("writer-0"), fleet.register("writer-1")
    fleet.link.remove_instance("writer-0")
    assert not writer.socket_path.exists()
    assert other.call("GET", "/api/hub/self", token=writer.token).code == "unauthenticated"


@pytest.mark.parametrize("token", ["", " ", "x" * 5000, "tøken", "a b"])
def test_a_token_that_is_none_is_refused(fleet: Fleet, token: str) -> None:
    writer = fleet.register("writer-0")
    request = b"GET /api/hub/self HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer " + token.encode() + b"\r\n\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(60)
        link.connect(str(writer.socket_path))
        link.sendall(request)
        assert link.recv(4096).startswith(b"HTTP/1.1 401 ")


# --- what it says -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        NOTE + b"[" * 100 + b"]" * 100 + b"}",
        NOTE + b"[" * 90_000 + b"]" * 90_000 + b"}",
        NOTE + b"9" * 10_000 + b"}",
        NOTE + b"1e99999}",
        NOTE + b"-" + b"0" * 100 + b"1}",
        NOTE + b'{"a":1,"a":2}}',
        NOTE + b'1,"payload":2}',
        NOTE + b'"\xff"}',
        NOTE + b'"\xed\xa0\x80"}',
        NOTE + b'"\\ud800"}',
        NOTE + b"NaN}",
        NOTE + b"Infinity}",
        NOTE + b'"\x00"}',
        b"\xef\xbb\xbf" + NOTE + b"1}",
        (NOTE + b"1}").decode().encode("utf-16"),
        NOTE + b"1}" + NOTE + b"1}",
    ],
    ids=lambda body: f"{body[-30:]!r}"[:40],
)
def test_what_is_not_strict_json_is_refused_and_the_router_goes_on(fleet: Fleet, body: bytes) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    assert post(writer, body) == (400, "invalid_envelope")
    (row,) = fleet.rows("code='invalid_envelope' AND size IS NOT NULL")
    assert (row["verdict"], row["step"], row["payload"], row["size"]) == ("deny", "schema", None, len(body))
    assert writer.send("review.note", to="reviewer", payload="fine").status == 202
    assert [m["payload"] for m in reviewer.receive()] == ["fine"]


def test_a_forbidden_and_an_unknown_recipient_cannot_be_told_apart(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    fleet.register("archive-0")
    answers = [
        writer.call("POST", "/api/hub/messages", writer.envelope("review.note", to=to)).body
        for to in ("archive", "nobody", "archive/archive-0", "archive/archive-7", "writer/writer-9")
    ]
    assert [answer["code"] for answer in answers] == ["unknown_or_forbidden_recipient"] * 5
    assert all(answer == answers[0] for answer in answers)
    reasons = {row["recipient"]: row["reason"] for row in fleet.rows("verdict='deny'")}
    assert "does not name review.note to archive" in reasons["archive"]
    assert reasons["nobody"] == "there is no such recipient"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
members = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["m-1", "", "x" * 200]) | json_values,
        "type": st.sampled_from(["review.note", "task.completed", "agent.heartbeat", "A"]) | json_values,
        "pattern": st.sampled_from(["event", "request", "reply", "broadcast"]),
        "to": st.sampled_from(["reviewer", "hub", "writer/writer-0", "../x"]) | json_values,
        "topic": st.sampled_from(["docs.new", "docs.*"]),
        "from": st.sampled_from(["writer", "hub"]),
        "correlation_id": json_values,
        "ttl_s": json_values,
        "sensitivity": json_values,
        "traceparent": st.text(max_size=60),
        "tracestate": st.text(max_size=60),
        "payload": json_values,
        "surprise": json_values,
    },
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members, st.booleans())
def test_any_envelope_gets_a_verdict_and_a_row_and_never_an_internal_error(
    fleet: Fleet, fields: dict[str, object], plain: bool
) -> None:
    writer = fleet.agents.get("writer-0") or fleet.register("writer-0")
    body = json.dumps(fields, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    reply = writer.call("POST", "/api/hub/messages", body)
    assert reply.status in (200, 202, 400, 403, 409, 410, 413, 422, 429), reply
    if reply.status >= 400:
        assert reply.body.keys() >= {"type", "title", "status", "code", "step", "reason"}
        assert len(reply.body["reason"]) <= 1200


# --- how it comes -----------------------------------------------------------------------------------------------------


def test_a_slow_writer_of_headers_costs_nobody_else_anything(fleet: Fleet) -> None:
    slow, writer = fleet.register("reviewer-0"), fleet.register("writer-0")
    links = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(50)]
    try:
        for link in links:
            link.connect(str(slow.socket_path))
            link.sendall(b"POST /api/hub/messages HTTP/1.1\r\nHost: h\r\nX: ")
        for n in range(20):
            for link in links[n % 5 :: 5]:
                link.sendall(b"y")
            assert writer.send("review.note", to="reviewer", payload=n).status == 202
        assert fleet.state()["instances"]["reviewer-0"]["lines"] >= 50
    finally:
        for link in links:
            link.close()
    assert [m["payload"] for m in slow.receive()] == list(range(20))


@both_transports
def test_a_slow_writer_of_a_body_holds_only_what_it_announced(fleet: Fleet) -> None:
    slow, writer = fleet.register("reviewer-0"), fleet.register("writer-0")
    with slow.connect() as connection:
        connection.putrequest("POST", "/api/hub/messages")
        connection.putheader("Authorization", f"Bearer {slow.token}")
        connection.putheader("Content-Length", "5000")
        connection.endheaders(b"{")
        for _ in range(20):
            connection.send(b" ")
            assert writer.send("review.note", to="reviewer").status == 202
        assert fleet.state()["instances"]["reviewer-0"]["in_flight_bytes"] == 5000
    until(lambda: fleet.state()["instances"]["reviewer-0"]["in_flight_bytes"] == 0)


@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /api/hub/self HTTP/9.9\r\n\r\n",
        b"POST /api/hub/messages HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/hub/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /api/hub/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost h\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_400_or_the_end_and_the_router_goes_on(fleet: Fleet, request_: bytes) -> None:
    writer = fleet.register("writer-0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(60)
        link.connect(str(writer.socket_path))
        link.sendall(request_)
        link.shutdown(socket.SHUT_WR)
        answer = b""
        while part := link.recv(4096):
            answer += part
    assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 404", b"HTTP/1.1 411")
    assert writer.call("GET", "/api/hub/self").status == 200


@both_transports
def test_a_flood_of_one_agent_leaves_another_its_time(fleet: Fleet) -> None:
    """The other's messages all pass while several connections of a neighbour send as fast as they can."""
    flood, writer, reviewer = fleet.register("archive-0"), fleet.register("writer-0"), fleet.register("reviewer-0")
    is_over = threading.Event()

    def send_on() -> None:
        body = json.dumps({"id": "f", "type": "docs.published", "pattern": "event", "topic": "docs.new"})
        with flood.connect() as connection:
            while not is_over.is_set():
                headers = {"Authorization": f"Bearer {flood.token}"}
                connection.request("POST", "/api/hub/messages", body=body, headers=headers)
                connection.getresponse().read()

    threads = [threading.Thread(target=send_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(50):
            assert writer.send("review.note", to="reviewer", payload=n).status == 202
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert [m["payload"] for m in reviewer.receive()] == list(range(50))


# --- the socket's directory -------------------------------------------------------------------------------------------


def renew(fleet: Fleet, agent: Agent) -> Agent:
    """The instance's container is made anew: another token, and its socket is looked after."""
    fresh = fleet.register(agent.name, hello=False)
    assert fresh.call("GET", "/api/hub/self").status == 200
    return fresh


def test_an_agent_that_puts_something_in_place_of_its_socket_harms_nobody_but_itself(
    fleet: Fleet, tmp_path: Path
) -> None:
    writer, other = fleet.register("writer-0"), fleet.register("writer-1")
    precious = tmp_path / "precious"
    precious.write_text("keep")
    precious.chmod(0o640)
    before = precious.stat()

    writer.socket_path.unlink()
    writer.socket_path.symlink_to(precious)
    writer = renew(fleet, writer)
    assert stat.S_ISSOCK(os.lstat(writer.socket_path).st_mode)

    writer.socket_path.unlink()
    writer.socket_path.write_text("not a socket")
    writer = renew(fleet, writer)

    writer.socket_path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as imposter:
        imposter.bind(str(writer.socket_path))
        imposter.listen()
        writer = renew(fleet, writer)

    (writer.socket_path.parent / "junk").write_text("x" * 10_000)
    renew(fleet, writer)
    after = precious.stat()
    assert (precious.read_text(), after.st_mode, after.st_uid) == ("keep", before.st_mode, before.st_uid)
    assert other.call("GET", "/api/hub/self").status == 200


def test_a_directory_in_place_of_the_socket_is_told_to_control_by_name(fleet: Fleet) -> None:
    writer, other = fleet.register("writer-0"), fleet.register("writer-1")
    writer.socket_path.unlink()
    writer.socket_path.mkdir()
    with pytest.raises(Exception, match=r"instances: writer-0: .*hub\.sock"):
        fleet.register("writer-0", hello=False)
    assert other.call("GET", "/api/hub/self").status == 200
    writer.socket_path.rmdir()
    renew(fleet, writer)
