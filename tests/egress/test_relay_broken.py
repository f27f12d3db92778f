"""What becomes of requests when a provider, an agent or a connection fails."""

import socket
import threading
import time

import pytest

from tests.egress.places import MODEL, Place, provider, until
from tests.egress.raw import SSE_HEAD, Line, RawProvider, read_all, receive_until
from tests.fakes.messages_api import MessagesApi


def test_a_provider_that_is_not_there_is_a_502_and_opens_the_breaker(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    place.configure(providers={"anthropic": provider(url)}, limits={"failures": 3, "half_open_after_s": 0.3})
    writer = place.register()
    for _ in range(3):
        assert writer.ask().code == "provider_failed"
    reply = writer.ask()
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "provider_away", "1")
    assert place.state()["providers"]["anthropic"]["is_away"]
    assert [row.status for row in place.rows(3)] == [0, 0, 0]
    with MessagesApi() as back:
        place.configure(providers={"anthropic": provider(back.url)})
        assert writer.ask().status == 200


def test_one_request_tries_again_after_a_while_and_success_closes_the_breaker(place: Place, api: MessagesApi) -> None:
    place.configure(limits={"failures": 2, "half_open_after_s": 0.2})
    writer = place.register()
    api.refuse(500, "api_error", times=3)
    assert [writer.ask().status for _ in range(2)] == [500, 500]
    assert writer.ask().code == "provider_away"
    assert len(api.asked) == 2
    until(lambda: writer.ask().status == 500)
    assert writer.ask().code == "provider_away"
    until(lambda: writer.ask().status == 200)
    assert writer.ask().status == 200
    assert place.state()["providers"]["anthropic"] == {"is_away": False, "fault": "", "idle": 1}


def test_one_providers_breaker_is_not_anothers(place: Place, api: MessagesApi) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    place.configure(
        providers={"anthropic": provider(api.url), "other": provider(url)},
        limits={"failures": 1, "half_open_after_s": 60},
    )
    writer = place.register()
    reader = place.register("reader-0", token="r" * 43, route={"provider": "other", "model": MODEL})
    assert [reader.ask().code, reader.ask().code] == ["provider_failed", "provider_away"]
    assert writer.ask().status == 200


def test_a_provider_that_says_nothing_is_given_up(place: Place, api: MessagesApi) -> None:
    place.configure(limits={"first_byte_s": 0.1, "whole_s": 0.2})
    writer = place.register()
    for is_stream in (True, False):
        api.keep_silent()
        reply = writer.ask(stream=is_stream)
        assert (reply.status, reply.code) == (504, "provider_timeout")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000,
        b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_a_502(place: Place, said: bytes) -> None:
    def serve(line: Line) -> None:
        line.receive()
        line.send(said)
        line.socket.close()

    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)})
        reply = place.register().ask()
        assert (reply.status, reply.code) == (502, "provider_failed")


@pytest.mark.parametrize(
    "head", [SSE_HEAD, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 4000\r\n\r\n"]
)
def test_an_answer_that_breaks_off_is_not_made_to_look_whole(place: Place, head: bytes) -> None:
    said = b'data: {"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'

    def serve(line: Line) -> None:
        line.receive()
        line.send(head)
        line.send(b"%x\r\n%b\r\n" % (len(said), said) if b"chunked" in head else said)
        line.socket.close()

    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)})
        found = read_all(place.register().begin(stream=True))
        assert said in found
        assert not found.endswith(b"0\r\n\r\n")
        (row,) = place.rows()
        assert (row.input, row.is_estimate) == (3, True)
        assert row.output >= 20


def test_an_answer_without_length_ends_with_its_connection(place: Place) -> None:
    def serve(line: Line) -> None:
        line.receive()
        line.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + b'{"usage":{"input_tokens":4}}')
        line.socket.close()

    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)})
        reply = place.register().ask()
        assert (reply.status, reply.content) == (200, b'{"usage":{"input_tokens":4}}')
        assert place.rows()[0].input == 4


def test_a_stream_that_falls_silent_is_given_up(place: Place) -> None:
    def serve(line: Line) -> None:
        line.receive()
        line.send(SSE_HEAD)
        line.chunk(b": waiting\n\n")
        ended.append(line.is_ended())

    ended: list[bool] = []
    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)}, limits={"idle_s": 0.2})
        found = read_all(place.register().begin(stream=True))
        assert b": waiting" in found
        until(lambda: ended == [True])


@pytest.mark.parametrize("has_begun", [True, False])
def test_when_the_agent_goes_away_the_provider_is_told_at_once(place: Place, has_begun: bool) -> None:
    came, ended = threading.Event(), threading.Event()

    def serve(line: Line) -> None:
        line.receive()
        if has_begun:
            line.send(SSE_HEAD)
            line.chunk(b'data: {"type":"message_start","message":{"usage":{"input_tokens":9}}}\n\n')
        came.set()
        if line.is_ended():
            ended.set()

    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)})
        link = place.register().begin(stream=True)
        assert came.wait(60)
        if has_begun:
            receive_until(link, b"input_tokens")
        link.close()
        assert ended.wait(60)
        (row,) = place.rows()
        assert row.input == (9 if has_begun else 0)
        assert not place.state()["providers"]["anthropic"]["is_away"]


def test_an_agent_that_does_not_read_holds_up_its_provider_and_no_memory(place: Place) -> None:
    sent = [0]

    def serve(line: Line) -> None:
        line.receive()
        line.send(SSE_HEAD)
        while sent[0] < 64 * 2**20:
            line.chunk(b"x" * 65536)
            sent[0] += 65536

    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)}, limits={"idle_s": 60})
        with place.register().begin(stream=True):
            until(lambda: sent[0] > 0)
            before = -1
            while before != sent[0]:
                before = sent[0]
                time.sleep(0.5)
            assert sent[0] < 24 * 2**20
            assert place.register("reader-0", token="r" * 43).call("GET", "/x").status == 404


def test_requests_of_one_instance_at_once_are_bounded_and_others_go_on(place: Place, api: MessagesApi) -> None:
    place.configure(limits={"parallel": 2})
    writer, reader = place.register(), place.register("reader-0", token="r" * 43)
    api.keep_silent()
    api.keep_silent()
    links = [writer.begin(), writer.begin()]
    api.wait_for(2)
    assert (writer.ask().status, writer.ask().code) == (429, "too_many")
    assert reader.ask().status == 200
    for link in links:
        link.close()
    until(lambda: writer.ask().status == 200)
