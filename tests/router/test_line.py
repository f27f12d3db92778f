"""Requests in every shape on one connection: the shorter way and ASGI answer the same, in order."""

import json
from collections.abc import Iterator

import pytest

from tests.router.fleet import Agent, Fleet, both_transports

pytestmark = both_transports


def post(writer: Agent, body: bytes, *, extra: str = "", version: str = "1.1", query: str = "") -> bytes:
    head = (
        f"POST /api/hub/messages{query} HTTP/{version}\r\nHost: hub\r\nAuthorization: Bearer {writer.token}\r\n{extra}"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def note(writer: Agent, payload: object) -> bytes:
    return json.dumps(writer.envelope("review.note", to="reviewer", payload=payload)).encode()


class Wire:
    """A raw connection that reads answers one by one."""

    def __init__(self, agent: Agent) -> None:
        self.link = agent.dial(60)
        self._received = b""

    def send(self, data: bytes) -> None:
        self.link.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self._received:
            self._read()
        head, _, rest = self._received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(rest) < length:
            self._read()
            rest = self._received.partition(b"\r\n\r\n")[2]
        self._received = rest[length:]
        return int(status.split()[1]), headers, rest[:length]

    def is_closed(self) -> bool:
        return not self._received and self.link.recv(1) == b""

    def _read(self) -> None:
        part = self.link.recv(65536)
        assert part, "the router closed the connection"
        self._received += part


@pytest.fixture
def agents(fleet: Fleet) -> tuple[Agent, Agent]:
    return fleet.register("writer-0"), fleet.register("reviewer-0")


@pytest.fixture
def wire(agents: tuple[Agent, Agent]) -> Iterator[Wire]:
    made = Wire(agents[0])
    yield made
    made.link.close()


def payloads(reviewer: Agent, count: int) -> list[object]:
    found: list[object] = []
    while len(found) < count:
        found += [message["payload"] for message in reviewer.receive()]
    return found


def test_the_same_head_with_bodies_of_any_length(agents: tuple[Agent, Agent], wire: Wire) -> None:
    sent = ["x" * n for n in (1, 10, 0, 5000, 3)]
    for payload in sent:
        wire.send(post(agents[0], note(agents[0], payload)))
        assert wire.answer()[0] == 202
    assert payloads(agents[1], len(sent)) == sent


def test_pipelined_messages_are_answered_and_delivered_in_order(agents: tuple[Agent, Agent], wire: Wire) -> None:
    bodies = [note(agents[0], n) for n in range(20)]
    wire.send(post(agents[0], bodies[0]))
    assert wire.answer()[0] == 202
    wire.send(b"".join(post(agents[0], body) for body in bodies[1:]))
    answers = [wire.answer() for _ in bodies[1:]]
    assert [json.loads(answer[2])["id"] for answer in answers] == [json.loads(body)["id"] for body in bodies[1:]]
    assert payloads(agents[1], 20) == list(range(20))


def test_a_message_in_pieces_is_the_same_message(agents: tuple[Agent, Agent], wire: Wire) -> None:
    for number in range(3):
        data = post(agents[0], note(agents[0], number))
        for at in range(0, len(data), 37):
            wire.send(data[at : at + 37])
        assert wire.answer()[0] == 202
    assert payloads(agents[1], 3) == [0, 1, 2]


def test_a_head_and_a_body_that_come_one_by_one(agents: tuple[Agent, Agent], wire: Wire) -> None:
    first, second = note(agents[0], 1), note(agents[0], 2)
    head, _, _ = post(agents[0], second).partition(b"\r\n\r\n")
    wire.send(post(agents[0], first) + head + b"\r\n\r\n")
    assert wire.answer()[0] == 202
    wire.send(second)
    assert wire.answer()[0] == 202
    assert payloads(agents[1], 2) == [1, 2]


def test_who_expects_100_continue_is_told_so(agents: tuple[Agent, Agent], wire: Wire) -> None:
    body = note(agents[0], 1)
    wire.send(post(agents[0], body, extra="Expect: 100-continue\r\n")[: -len(body)])
    assert wire.answer()[0] == 100
    wire.send(body)
    assert wire.answer()[0] == 202


@pytest.mark.parametrize(("version", "extra"), [("1.1", "Connection: close\r\n"), ("1.0", "")])
def test_the_connection_ends_with_the_answer_where_the_caller_wants_it(
    agents: tuple[Agent, Agent], wire: Wire, version: str, extra: str
) -> None:
    wire.send(post(agents[0], note(agents[0], 1), extra=extra, version=version))
    status, headers, _ = wire.answer()
    assert (status, headers["connection"]) == (202, "close")
    assert wire.is_closed()


def test_a_refusal_has_the_same_headers_on_both_ways(agents: tuple[Agent, Agent], wire: Wire) -> None:
    wire.send(post(agents[0], note(agents[0], 1)))
    assert wire.answer()[0] == 202
    data = post(agents[0], b"{").replace(agents[0].token.encode(), b"wrong")
    wire.send(data)
    plain = wire.answer()
    wire.send(data[:-1])
    wire.send(data[-1:])
    assert wire.answer() == plain
    assert plain[1]["www-authenticate"] == "Bearer"
    assert plain[1]["content-type"] == "application/problem+json"


def test_other_requests_between_messages_find_their_answers(agents: tuple[Agent, Agent], wire: Wire) -> None:
    writer = agents[0]
    self_ = f"GET /api/hub/self HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {writer.token}\r\n\r\n".encode()
    for number in range(3):
        wire.send(post(writer, note(writer, number)) + self_)
        assert wire.answer()[0] == 202
        assert json.loads(wire.answer()[2])["instance"] == "writer-0"
    wire.send(
        b"GET /%61pi/hub/self HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer " + writer.token.encode() + b"\r\n\r\n"
    )
    assert wire.answer()[0] == 200
    wire.send(b"nonsense\r\n\r\n")
    assert wire.answer()[0] == 400
    assert wire.is_closed()


def test_a_request_that_waits_gets_its_reply_and_the_line_goes_on(agents: tuple[Agent, Agent], wire: Wire) -> None:
    writer, reviewer = agents
    body = json.dumps(writer.envelope("review.request", "request", to="reviewer")).encode()
    wire.send(post(writer, body, query="?wait=50"))
    (request,) = reviewer.receive()
    reviewer.send("review.result", "reply", correlation_id=request["id"], payload="fine")
    status, _, answer = wire.answer()
    assert (status, json.loads(answer)["payload"]) == (200, "fine")
    wire.send(post(writer, note(writer, 1)))
    assert wire.answer()[0] == 202
