"""What passes the relay: a real process, real sockets, stand-ins of providers."""

import json
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.egress.conftest import KEY
from tests.egress.places import MODEL, TOKEN, Place, provider, question
from tests.egress.raw import SSE_HEAD, Line, RawProvider, receive_until, receive_until_end, take_chunk
from tests.fakes.messages_api import MessagesApi

# --- passing on ---


def test_a_message_reaches_the_provider_with_its_key_and_without_the_token(place: Place, api: MessagesApi) -> None:
    writer = place.register()
    api.say("hello")
    reply = writer.ask()
    assert (reply.status, reply.body["content"][0]["text"]) == (200, "hello")
    (asked,) = api.asked
    assert (asked.method, asked.path) == ("POST", "/v1/messages")
    assert asked.headers["x-api-key"] == KEY
    assert "authorization" not in asked.headers
    assert writer.token not in json.dumps(dict(asked.headers))
    assert asked.body == question()


def test_headers_of_the_api_and_the_query_go_through_untouched(place: Place, api: MessagesApi) -> None:
    writer = place.register()
    headers = {
        "x-api-key": TOKEN,
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "a-2026-01-01,b-2026-02-02",
        "x-stainless-lang": "js",
        "Cookie": "session=1",
        "hub-run": "r1",
        "Accept-Encoding": "gzip, br",
    }
    assert writer.call("POST", "/llm/anthropic/v1/messages?beta=true", question(), headers).status == 200
    (asked,) = api.asked
    assert asked.path == "/v1/messages?beta=true"
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert asked.headers["anthropic-beta"] == "a-2026-01-01,b-2026-02-02"
    assert asked.headers["x-stainless-lang"] == "js"
    assert asked.headers["x-api-key"] == KEY
    assert asked.headers["accept-encoding"] == "identity"
    assert not {"cookie", "hub-run", "authorization"} & asked.headers.keys()


def test_a_stream_passes_byte_for_byte_and_as_it_comes(place: Place) -> None:
    events = [
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n',
        b": a comment\r\n\r\n",
        'event: ping\ndata: {"type": "ping", "text": "\u00e9\u4e16\u754c"}\n\n'.encode(),
        b"data: {not json \xff\xfe}\n\n",
        b"x" * 70_000 + b"\n\n",
        b'data: {"type":"message_delta","usage":{"output_tokens":5}}\n\n',
    ]
    seen = [threading.Event() for _ in events]

    def serve(line: Line) -> None:
        line.receive()
        line.send(SSE_HEAD)
        for event, was_seen in zip(events, seen, strict=True):
            for at in range(0, len(event), 30_011):
                line.chunk(event[at : at + 30_011])
            assert was_seen.wait(60), "the event did not pass before the next one came"
        line.send(b"0\r\n\r\n")

    with RawProvider(serve) as raw, ExitStack() as stack:
        place.configure(providers={"anthropic": provider(raw.url)})
        link = stack.enter_context(place.register().begin(stream=True))
        found = receive_until(link, b"\r\n\r\n")
        head, _, rest = found.partition(b"\r\n\r\n")
        assert b"content-type: text/event-stream; charset=utf-8" in head
        body = b""
        for event, was_seen in zip(events, seen, strict=True):
            want = len(body) + len(event)
            while len(body) < want:
                content, rest = take_chunk(link, rest)
                body += content
            was_seen.set()
        assert receive_until_end(link, rest) == b"0\r\n\r\n"
        assert body == b"".join(events)
        (row,) = place.rows()
        assert (row.input, row.output, row.is_estimate, row.status) == (3, 5, False, 200)


def test_connections_to_the_provider_and_of_the_agent_are_kept(place: Place) -> None:
    asked: list[bytes] = []

    def serve(line: Line) -> None:
        while request := line.receive():
            asked.append(request)
            line.answer()

    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)})
        writer = place.register()
        for _ in range(3):
            assert writer.ask().status == 200
        assert (len(asked), len(raw.lines)) == (3, 1)


def test_a_kept_connection_that_the_provider_ended_meanwhile_is_replaced(place: Place) -> None:
    def serve(line: Line) -> None:
        line.receive()
        line.answer()
        if len(raw.lines) == 1:
            line.receive()
            line.socket.close()

    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)})
        writer = place.register()
        assert [writer.ask().status, writer.ask().status] == [200, 200]
        assert len(raw.lines) == 2


def test_errors_of_the_provider_reach_the_agent_as_they_are(place: Place, api: MessagesApi) -> None:
    writer = place.register()
    api.refuse(429, "rate_limit_error", retry_after="7")
    reply = writer.ask()
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")
    assert reply.body["error"]["type"] == "rate_limit_error"
    api.refuse(529, "overloaded_error")
    assert writer.ask().status == 529
    assert [row.cost for row in place.rows(2)] == [0.0, 0.0]


def test_tokens_are_counted_for_free(place: Place) -> None:
    writer = place.register("frugal-0", per_day={"tokens": 1})
    reply = writer.call("POST", "/llm/anthropic/v1/messages/count_tokens", question())
    assert reply.body == {"input_tokens": 12}
    assert place.rows()[0].input == 0
    assert writer.ask().status == 200


# --- the other API, and models ---


def test_openais_api_goes_to_providers_that_speak_it(place: Place, api: MessagesApi, key_file: Path) -> None:
    place.configure(providers={"openai": provider(api.url, type="openai", key_file=str(key_file))})
    writer = place.register(route={"provider": "openai", "model": MODEL})
    reply = writer.chat()
    assert (reply.status, reply.body["choices"][0]["message"]["content"]) == (200, "done")
    (asked,) = api.asked
    assert (asked.path, asked.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert "x-api-key" not in asked.headers
    (row,) = place.rows()
    assert (row.input, row.output, row.provider) == (12, 7, "openai")
    refused = writer.ask()
    assert (refused.status, refused.code) == (404, "wrong_api")
    assert "/llm/openai/" in refused.body["error"]["message"]


def test_errors_are_in_the_words_of_the_api_that_is_spoken(place: Place) -> None:
    writer = place.register()
    refused = writer.chat()
    assert set(refused.body) == {"error"}
    assert refused.body["error"]["code"] == "wrong_api"
    assert writer.ask(model="x").body["type"] == "error"


def test_a_stream_of_openais_api_says_what_it_used(place: Place) -> None:
    asked: list[bytes] = []
    events = (
        b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\ndata: [DONE]\n\n',
    )

    def serve(line: Line) -> None:
        asked.append(line.receive())
        line.send(SSE_HEAD)
        for event in events:
            line.chunk(event)
        line.send(b"0\r\n\r\n")

    with RawProvider(serve) as raw:
        place.configure(providers={"gpu": provider(raw.url, type="ollama", exposure="private")})
        reply = place.register(route={"provider": "gpu", "model": MODEL}).chat(stream=True)
        assert reply.content == b"".join(events)
        assert b'"stream_options":{"include_usage":true}' in asked[0]
        assert b"authorization" not in asked[0].lower()
        (row,) = place.rows()
        assert (row.input, row.output, row.is_estimate) == (9, 4, False)


def test_a_provider_behind_a_path_and_on_a_unix_socket(place: Place, run_folder: Path) -> None:
    with MessagesApi(str(run_folder / "model.sock")) as local, MessagesApi() as far:
        place.configure(
            providers={
                "gpu": provider(f"unix://{run_folder}/model.sock", type="ollama", exposure="private"),
                "gate": provider(f"{far.url}/team/models"),
            }
        )
        assert place.register(route={"provider": "gpu", "model": MODEL}).ask().status == 200
        assert (
            place.register("reader-0", token="r" * 43, route={"provider": "gate", "model": MODEL}).ask().status == 200
        )
        assert [asked.path for asked in (*local.asked, *far.asked)] == ["/v1/messages", "/team/models/v1/messages"]
        assert local.asked[0].headers["host"] == "localhost"


def test_the_list_of_models_is_the_one_model_in_either_shape(place: Place, api: MessagesApi) -> None:
    place.configure(providers={"gpu": provider(api.url, type="ollama", exposure="private")})
    writer = place.register(route={"provider": "gpu", "model": MODEL})
    found = writer.call("GET", "/llm/anthropic/v1/models?limit=1000").body
    assert (found["first_id"], found["last_id"], found["has_more"]) == (MODEL, MODEL, False)
    assert found["data"] == [
        {"type": "model", "id": MODEL, "display_name": MODEL, "created_at": "1970-01-01T00:00:00Z"}
    ]
    assert writer.call("GET", "/llm/openai/v1/models").body == {
        "object": "list",
        "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "gpu"}],
    }
    assert api.asked == []
