from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path

import pytest

from reconciler.agentd.dial import UnixDial
from reconciler.agentd.hub import Backoff, Hub, HubGoneError, boottime_s
from reconciler.agentd.message import Message

from .fake_hub import FakeHub


def build_message(id_: str = "1", type_: str = "docs.published") -> Message:
    body = json.dumps({"id": id_, "type": type_, "payload": {}}).encode()
    return Message(id=id_, type=type_, body=body)


def test_an_accepted_message_is_ok_and_noted(hub: FakeHub) -> None:
    client = Hub(UnixDial(hub.socket_path), str(hub.token_file))
    before = boottime_s()
    answer = client.send(build_message())
    assert (answer.status, answer.is_ok, answer.is_passing) == (202, True, False)
    assert client.last_ok >= before


def test_the_token_is_read_at_each_call(hub: FakeHub) -> None:
    client = Hub(UnixDial(hub.socket_path), str(hub.token_file))
    client.send(build_message("1"))
    hub.tokens.add("token-2")
    hub.write_token("token-2")
    client.send(build_message("2"))
    assert [a.token for a in hub.attempts] == ["token-1", "token-2"]


@pytest.mark.parametrize("content", ["", "two words", "line\nbreak", "umläut"])
def test_a_token_file_without_a_token_is_not_shown(hub: FakeHub, content: str) -> None:
    hub.write_token(content)
    with pytest.raises(HubGoneError) as gone:
        Hub(UnixDial(hub.socket_path), str(hub.token_file)).send(build_message())
    assert not content or content not in str(gone.value)


def test_a_missing_token_file_is_an_outage(hub: FakeHub) -> None:
    hub.token_file.unlink()
    with pytest.raises(HubGoneError, match="token file"):
        Hub(UnixDial(hub.socket_path), str(hub.token_file)).send(build_message())


def test_no_socket_is_an_outage(hub: FakeHub) -> None:
    hub.stop()
    with pytest.raises(HubGoneError, match="connecting"):
        Hub(UnixDial(hub.socket_path), str(hub.token_file)).send(build_message())


def test_a_broken_connection_is_an_outage(hub: FakeHub) -> None:
    hub.drop_answer("docs.published")
    with pytest.raises(HubGoneError, match="POST /api/hub/messages"):
        Hub(UnixDial(hub.socket_path), str(hub.token_file)).send(build_message())


@pytest.mark.parametrize(("status", "is_passing"), [(401, True), (429, True), (503, True), (403, False), (409, False)])
def test_some_refusals_pass_and_some_do_not(hub: FakeHub, status: int, is_passing: bool) -> None:
    hub.refuse("docs.published", status, "some_code", retry_after="1.5")
    answer = Hub(UnixDial(hub.socket_path), str(hub.token_file)).send(build_message())
    assert (answer.is_ok, answer.is_passing) == (False, is_passing)
    assert (answer.code, answer.retry_after_s) == ("some_code", 1.5)
    assert answer.explanation == f"{status} some_code as told"


@pytest.mark.parametrize("header", ["nan", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_is_none(hub: FakeHub, header: str) -> None:
    hub.refuse("docs.published", 429, "rate_limited", retry_after=header)
    assert Hub(UnixDial(hub.socket_path), str(hub.token_file)).send(build_message()).retry_after_s == 0


def test_pauses_grow_up_to_the_cap_with_jitter() -> None:
    backoff = Backoff(base_s=1, cap_s=4)
    pauses = [backoff.next_s() for _ in range(5)]
    for i, exact in enumerate([1, 2, 4, 4, 4]):
        assert exact / 2 <= pauses[i] <= exact
    backoff.reset()
    assert backoff.next_s() <= 1


def test_head_and_body_of_a_request_come_in_one_piece(tmp_path: Path) -> None:
    path, token_file = tmp_path / "hub.sock", tmp_path / "token"
    token_file.write_text("token-1")
    read: list[bytes] = []

    def answer_first_piece() -> None:
        line, _address = listener.accept()
        with line:
            read.append(line.recv(65536))
            line.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=answer_first_piece)
        thread.start()
        message = build_message()
        assert Hub(UnixDial(str(path)), str(token_file)).send(message, wait_s=2).is_ok
        thread.join()
    head, _, body = read[0].partition(b"\r\n\r\n")
    assert body == message.body
    assert head.split(b"\r\n") == [
        b"POST /api/hub/messages?wait=2 HTTP/1.1",
        b"Host: hub",
        b"Authorization: Bearer token-1",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(message.body),
    ]


def test_calls_follow_on_one_connection(hub: FakeHub) -> None:
    with contextlib.closing(Hub(UnixDial(hub.socket_path), str(hub.token_file)).connect()) as connection:
        for id_ in ("1", "2"):
            assert connection.call("POST", "/api/hub/messages", build_message(id_).body, 60).status == 202
        hub.deliver("task.cancel", {})
        polled = connection.call("GET", "/api/hub/messages?wait=1&max=10", None, 60)
    assert (polled.status, polled.is_last) == (200, False)
    assert len(polled.body["messages"]) == 1  # type: ignore[arg-type]
