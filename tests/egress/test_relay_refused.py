"""What the relay refuses: who may not ask, what may not be asked, and keys that cannot be used."""

import time
from pathlib import Path

import pytest

from tests.egress.conftest import KEY
from tests.egress.places import TOKEN, Agent, Place, entry_of, provider, question
from tests.egress.raw import Line, RawProvider, receive_until
from tests.fakes.messages_api import MessagesApi

# --- who may ---


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": "x" * 5000},
        {"Authorization": "Bearer wrong", "x-api-key": TOKEN},
        {"Authorization": f"Bearer {TOKEN}", "x-api-key": KEY},
    ],
)
def test_who_does_not_show_the_token_gets_nothing(place: Place, api: MessagesApi, headers: dict[str, str]) -> None:
    writer = place.register()
    for method, path in (("POST", "messages"), ("GET", "models"), ("GET", "nothing")):
        reply = writer.call(method, f"/llm/anthropic/v1/{path}", question(), headers)
        assert (reply.status, reply.body["error"]["type"]) == (401, "authentication_error")
    assert api.asked == []


def test_who_goes_on_without_the_token_is_read_slowly_and_others_are_not(place: Place) -> None:
    writer, reader = place.register(), place.register("reader-0", token="r" * 43)
    flood = b"GET /llm/anthropic/v1/models HTTP/1.1\r\nHost: hub\r\n\r\n"
    with writer.connect() as link:
        began = time.monotonic()
        for _ in range(200):
            link.sendall(flood)
            receive_until(link, b"unauthenticated)")
            if time.monotonic() - began > 0.5:
                break
        else:
            raise AssertionError("200 requests without a token were answered at once")
        assert reader.call("GET", "/llm/anthropic/v1/models").status == 200


def test_both_headers_may_show_the_same_token(place: Place) -> None:
    writer = place.register()
    headers = {"Authorization": f"Bearer {TOKEN}", "x-api-key": TOKEN}
    assert writer.call("POST", "/llm/anthropic/v1/messages", question(), headers).status == 200


def test_a_token_is_worth_nothing_on_another_socket_when_it_expired_or_was_revoked(place: Place) -> None:
    writer, reader = place.register(), place.register("reader-0", token="r" * 43)
    assert Agent(reader.socket_path, writer.token).ask().status == 401
    assert reader.ask().status == 200
    old = {"tokens": [{**entry_of("reader-0", token="r" * 43)["tokens"][0], "expires_at": time.time() - 1}]}
    place.link.put_instance("reader-0", {**entry_of("reader-0"), **old})
    assert reader.ask().status == 401
    place.link.remove_instance("writer-0")
    with pytest.raises(OSError, match="No such file"):
        writer.ask()


# --- what may be asked ---


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not JSON"),
        (b'{"model": 5}', "not JSON"),
        (b"{}", "model"),
        (b'{"model": "claude-opus", "Model": "other"}', "'Model' is not 'model'"),
        (b'{"model": "claude-opus", "STREAM": true}', "'STREAM' is not 'stream'"),
        (b"[" * 100_000, "not JSON"),
        (b'{"model": "claude-opus", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
    ],
)
def test_a_body_that_is_none_is_refused_before_anybody_is_asked(
    place: Place, api: MessagesApi, body: bytes, reason: str
) -> None:
    writer = place.register()
    reply = writer.call("POST", "/llm/anthropic/v1/messages", body)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert reason in reply.body["error"]["message"]
    assert api.asked == []


def test_a_model_that_stands_twice_is_what_was_checked(place: Place) -> None:
    asked: list[bytes] = []

    def serve(line: Line) -> None:
        while request := line.receive():
            asked.append(request)
            line.answer()

    with RawProvider(serve) as raw:
        place.configure(providers={"anthropic": provider(raw.url)})
        writer = place.register()
        smuggled = b'{"model":"other","x":1.50,"model":"claude-opus","y":"\\u00e9"}'
        assert writer.call("POST", "/llm/anthropic/v1/messages", smuggled).status == 200
        assert asked[0].endswith(b'\r\n\r\n{"model":"claude-opus","x":1.50,"y":"\\u00e9"}')
        refused = writer.call("POST", "/llm/anthropic/v1/messages", b'{"model":"claude-opus","model":"other"}')
        assert refused.code == "unknown_model"


def test_another_model_than_that_of_the_route_is_unknown(place: Place, api: MessagesApi) -> None:
    reply = place.register().ask(model="claude-haiku")
    assert (reply.status, reply.code) == (404, "unknown_model")
    assert "use claude-opus" in reply.body["error"]["message"]
    assert api.asked == []


def test_bodies_without_length_or_too_large_are_refused(place: Place) -> None:
    place.configure(limits={"max_body_bytes": 2048})
    writer = place.register()
    assert writer.ask(messages=["x" * 3000]).code == "too_large"
    with writer.connect() as link:
        link.sendall(
            b"POST /llm/anthropic/v1/messages HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer %b\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" % TOKEN.encode()
        )
        assert b"HTTP/1.1 411" in receive_until(link, b"length_required")


def test_whether_anybody_is_here_may_be_asked_without_a_token(place: Place) -> None:
    writer = place.register()
    assert writer.call("HEAD", "/llm/anthropic", headers={}).status == 204
    assert place.state()["instances"]["writer-0"]["denied"] == {}


def test_unknown_paths_and_methods(place: Place) -> None:
    writer = place.register()
    assert writer.call("POST", "/llm/anthropic/v1/files").status == 404
    assert writer.call("GET", "/llm/anthropic/v1/messages").status == 405
    assert writer.call("POST", "/llm/anthropic/v1/models").status == 405
    assert writer.call("GET", "/llm/anthropic/v1/%2e%2e/messages").status == 404
    assert writer.call("GET", "/").status == 404


def test_an_instance_without_a_route_may_ask_nobody(place: Place, api: MessagesApi) -> None:
    reply = place.register(route=None).ask()
    assert (reply.status, reply.code) == (403, "no_route")
    assert "no llm section" in reply.body["error"]["message"]
    assert api.asked == []


def test_a_provider_that_left_the_configuration_is_not_asked(place: Place, api: MessagesApi) -> None:
    writer = place.register()
    place.configure(providers={})
    assert writer.ask().code == "no_route"
    assert api.asked == []


# --- the key ---


def test_the_key_is_read_at_use(place: Place, api: MessagesApi, key_file: Path) -> None:
    writer = place.register()
    writer.ask()
    key_file.write_text("sk-ant-another\n")
    writer.ask()
    assert [asked.headers["x-api-key"] for asked in api.asked] == [KEY, "sk-ant-another"]


@pytest.mark.parametrize("content", [None, "", "two\nlines", "a key", "\x00", "k" * 5000])
def test_a_key_that_cannot_be_used_is_the_operators_fault(
    place: Place, api: MessagesApi, key_file: Path, content: str | None
) -> None:
    writer = place.register()
    key_file.unlink() if content is None else key_file.write_text(content)
    reply = writer.ask()
    assert (reply.status, reply.code) == (503, "no_key")
    assert api.asked == []
    assert "key" in place.state()["providers"]["anthropic"]["fault"]
    assert str(key_file) not in reply.content.decode()


@pytest.mark.parametrize("status", [401, 403])
def test_what_a_provider_says_of_the_key_does_not_reach_the_agent(place: Place, api: MessagesApi, status: int) -> None:
    writer = place.register()
    api.refuse(status, f"incorrect key {KEY[:12]}")
    reply = writer.ask()
    assert (reply.status, reply.code) == (502, "provider_refused")
    assert KEY[:12] not in reply.content.decode()
    assert "refuses the operator's key" in place.state()["providers"]["anthropic"]["fault"]


def test_neither_keys_nor_tokens_nor_bodies_are_in_logs_reports_or_the_ledger(
    own_place: Place, api: MessagesApi
) -> None:
    writer = own_place.register(work=[{"run": "r1", "task": "t"}])
    api.say("a secret answer")
    writer.ask(messages=[{"role": "user", "content": "a secret question"}], stream=True)
    writer.call("POST", "/llm/anthropic/v1/messages", b'{"model": "a secret question"}')
    own_place.rows()
    own_place.link.stop()
    found = b"".join(file.read_bytes() for file in own_place.data.rglob("*") if file.is_file())
    for secret in (KEY, TOKEN, "secret question", "secret answer"):
        assert secret.encode() not in found
    assert b"Traceback" not in found
