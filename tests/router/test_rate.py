"""Sizes: what is too large is refused before it is read."""

import http.client
import os

from reconciler.router.config import InstanceEntry
from reconciler.router.rate import Intake
from reconciler.router.registry import Instance
from tests.router.fleet import Fleet, read_reply, until


def test_a_body_of_ten_megabytes_is_refused_and_the_connection_stays_usable(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    headers = {"Authorization": f"Bearer {writer.token}"}
    with writer.connect() as connection:
        connection.request("POST", "/api/hub/messages", body=os.urandom(10 * 2**20), headers=headers)
        reply = read_reply(connection.getresponse())
        assert (reply.status, reply.code, reply.body["step"]) == (413, "too_large", "rate")
        connection.request("GET", "/api/hub/self", headers=headers)
        assert read_reply(connection.getresponse()).status == 200


def test_the_refusal_comes_before_the_body(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    with writer.connect() as connection:
        connection.putrequest("POST", "/api/hub/messages")
        connection.putheader("Authorization", f"Bearer {writer.token}")
        connection.putheader("Content-Length", str(2**40))
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 413
        assert response.headers["Connection"] == "close"


def test_a_body_in_chunks_is_refused(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    head = f"POST /api/hub/messages HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {writer.token}\r\n"
    with writer.connect() as connection:
        connection.sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection.sock)
        response.begin()
        reply = read_reply(response)
    assert (reply.status, reply.code) == (411, "invalid_envelope")


def test_too_large_is_counted_not_logged_one_by_one(fleet: Fleet) -> None:
    fleet.configure(limits={"max_body_bytes": 1024})
    writer = fleet.register("writer-41")
    where = "code='too_large' AND instance='writer-41'"
    for _ in range(10):
        assert writer.send("review.note", to="reviewer", payload="x" * 2000).code == "too_large"
    until(lambda: sum(row["count"] for row in fleet.rows(where)) == 10)
    assert len(fleet.rows(where)) <= 3


def test_bodies_on_their_way_are_bounded_per_instance_and_over_all() -> None:
    intake = Intake()
    agents = [Instance(f"writer-{n}", InstanceEntry(agent="writer")) for n in range(9)]
    assert [intake.admit(agents[0], 100, 100) for _ in range(8)] == [None] * 8
    denied = intake.admit(agents[0], 100, 100)
    assert denied is not None
    assert (denied.code, denied.retry_after_s) == ("rate_limited", 1)
    for agent in agents[1:8]:
        assert [intake.admit(agent, 100, 100) for _ in range(8)] == [None] * 8
    assert intake.admit(agents[8], 100, 100) is not None
    intake.leave(agents[0], 100)
    assert intake.admit(agents[8], 100, 100) is None
