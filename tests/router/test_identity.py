"""Tokens on sockets, over the real thing."""

import time

import pytest

from tests.router.fleet import Fleet, both_transports, instance_entry, until


@both_transports
def test_the_right_token_on_its_own_socket_is_accepted(fleet: Fleet) -> None:
    writer = fleet.register("writer-0", hello=False)
    assert writer.call("GET", "/api/hub/self").body["instance"] == "writer-0"


@both_transports
@pytest.mark.parametrize("header", [{}, {"Authorization": "Basic x"}, {"Authorization": "Bearer"}])
def test_without_a_bearer_token_nothing_is_answered(fleet: Fleet, header: dict[str, str]) -> None:
    writer = fleet.register("writer-0", hello=False)
    with writer.connect() as connection:
        connection.request("GET", "/api/hub/self", headers=header)
        response = connection.getresponse()
        response.read()
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"


@both_transports
def test_two_tokens_at_once_are_refused(fleet: Fleet) -> None:
    writer = fleet.register("writer-0", hello=False)
    with writer.connect() as connection:
        connection.putrequest("GET", "/api/hub/self")
        connection.putheader("Authorization", f"Bearer {writer.token}")
        connection.putheader("Authorization", "Bearer other")
        connection.endheaders()
        assert connection.getresponse().status == 401


@both_transports
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/hub/self"),
        ("GET", "/api/hub/messages"),
        ("POST", "/api/hub/messages"),
        ("POST", "/api/hub/messages/ack"),
        ("GET", "/no/such/path"),
    ],
)
def test_a_wrong_token_is_refused_on_each_path(fleet: Fleet, method: str, path: str) -> None:
    writer = fleet.register("writer-0", hello=False)
    reply = writer.call(method, path, b"{}" if method == "POST" else None, token="wrong")
    assert (reply.status, reply.code, reply.body["step"]) == (401, "unauthenticated", "identity")
    assert reply.headers["Content-Type"] == "application/problem+json"


def test_a_token_is_refused_on_another_instances_socket(fleet: Fleet) -> None:
    first, second = fleet.register("writer-0"), fleet.register("writer-1")
    reply = second.call("GET", "/api/hub/self", token=first.token)
    assert reply.body["reason"] == "this token is not valid on this socket"
    assert reply.status == 401


@both_transports
def test_an_expired_token_is_refused_and_control_is_told(fleet: Fleet) -> None:
    fleet.link.wait_hint(0)
    writer = fleet.register("writer-0", hello=False, expires_in_s=0.2)
    until(lambda: writer.call("GET", "/api/hub/self").status == 401)
    assert writer.call("GET", "/api/hub/self").code == "unauthenticated"
    assert fleet.link.wait_hint(60) == ["agent"]


def test_old_and_new_token_are_valid_while_they_overlap(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    later = time.time() + 100
    fleet.link.put_instance("writer-0", instance_entry("writer", [(writer.token, later), ("new", later)]))
    assert writer.call("GET", "/api/hub/self").status == 200
    assert writer.call("GET", "/api/hub/self", token="new").status == 200
    assert fleet.report().instances["writer-0"].hello is not None
    fleet.link.put_instance("writer-0", instance_entry("writer", [("new", later)]))
    assert writer.call("GET", "/api/hub/self").status == 401


@both_transports
def test_a_new_container_with_a_new_token_has_not_said_hello(fleet: Fleet) -> None:
    fleet.register("writer-0")
    fleet.register("writer-0", hello=False)
    assert fleet.report().instances["writer-0"].hello is None


def test_what_an_instance_was_told_last_is_reported_until_it_says_hello(fleet: Fleet) -> None:
    writer = fleet.register("writer-0", hello=False)

    def told() -> str:
        return str(fleet.report().instances["writer-0"].last_denial)

    assert told() == ""
    assert writer.hello(capabilities="none").code == "invalid_payload"
    assert told().startswith("invalid_payload at schema: ")
    assert writer.send("review.note", to="nobody", payload="a secret").status == 403
    assert "nobody" not in told()
    token, writer.token = writer.token, "wrong"
    assert writer.poll().status == 401
    assert told().startswith("unauthenticated at identity: ")
    writer.token = token
    assert writer.hello().status == 200
    assert told() == ""
    assert writer.hello(capabilities="none").code == "invalid_payload"
    assert told() == ""


def test_a_new_token_begins_without_what_the_old_one_was_told(fleet: Fleet) -> None:
    fleet.register("writer-0", hello=False).hello(capabilities="none")
    assert fleet.report().instances["writer-0"].last_denial
    fleet.register("writer-0", hello=False)
    assert fleet.report().instances["writer-0"].last_denial == ""


@both_transports
def test_a_from_that_is_given_must_be_true(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    for true in ("writer", "writer/writer-0"):
        assert writer.send("review.note", to="reviewer", **{"from": true}).status == 202
    for forged in ("reviewer", "writer/writer-1", "hub", "writer-0"):
        reply = writer.send("review.note", to="reviewer", **{"from": forged})
        assert (reply.status, reply.code, reply.body["step"]) == (403, "forbidden", "identity")
    assert [m["from"] for m in reviewer.receive()] == ["writer/writer-0"] * 2
    assert len(fleet.rows("code='forbidden' AND step='identity' AND type='review.note'")) == 4


def test_a_forged_from_is_told_to_control_once(fleet: Fleet) -> None:
    writer = fleet.register("writer-30")
    while fleet.link.wait_hint(0):
        pass
    for _ in range(3):
        assert writer.send("review.note", to="reviewer", **{"from": "reviewer"}).status == 403
    assert fleet.link.wait_hint(60) == ["task"]
    (entry,) = [e for e in fleet.link.read_inbox(fleet.inbox_since, 10) if e.instance == "writer-30"]
    reason = "from says reviewer, but this token belongs to writer/writer-30; leave from out"
    assert (entry.type, entry.payload) == ("hub.forged", {"reason": reason})
    assert len(fleet.rows("instance='writer-30' AND step='identity'")) == 3


def test_refused_tokens_are_counted_into_one_row_per_second(fleet: Fleet) -> None:
    writer = fleet.register("writer-40", hello=False)
    for _ in range(40):
        writer.call("GET", "/api/hub/messages", token="wrong")

    def counted() -> list[int]:
        return [row["count"] for row in fleet.rows("code='unauthenticated' AND instance='writer-40'")]

    until(lambda: sum(counted()) == 40)
    assert len(counted()) <= 3
