"""The executor `http`, through the daemon, with a model that stands in; the same for both sorts of chat."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.agentd.chat import Talk, conclude
from reconciler.agentd.outcome import Completed, Failed, Usage
from reconciler.agentd.process import Ended
from tests.fakes.messages_api import MessagesApi

from .conftest import SECRET, Agentd, StartAgentd
from .fake_hub import FakeHub
from .models import model

__all__ = ["model"]

StartChat = Callable[..., Agentd]
PATHS = {"openai": "/llm/openai/v1/chat/completions", "ollama": "/llm/ollama/api/chat"}


@pytest.fixture
def start_chat(start_agentd: StartAgentd) -> StartChat:
    """Start a daemon that asks a model; keywords are those of its executor."""

    def start(**executor: object) -> Agentd:
        return start_agentd(executor={"type": "http", "model": "qwen3", **executor})

    return start


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_the_answer_is_the_result_and_its_tokens_are_told(
    hub: FakeHub, model: MessagesApi, start_chat: StartChat, api: str, is_stream: bool
) -> None:
    model.streams = is_stream
    model.say("All is well: äöü.", input_tokens=12, output_tokens=7)
    start_chat(api=api)
    hub.assign(prompt="How is it?", input={"tag": "v9"})
    done = hub.wait_for("task.completed")
    assert done["result"] == "All is well: äöü."
    assert done["usage"] == {
        "model": "qwen3",
        "input_tokens": 12,
        "output_tokens": 7,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "turns": 1,
    }
    (asked,) = model.asked
    assert (asked.path, asked.headers["authorization"]) == (PATHS[api], "Bearer token-1")
    assert asked.body["model"] == "qwen3"
    (message,) = asked.body["messages"]
    assert message["role"] == "user"
    assert "How is it?" in message["content"]
    assert '"tag": "v9"' in message["content"]
    assert SECRET not in json.dumps(asked.body)


def test_a_result_that_is_json_is_told_as_json(hub: FakeHub, model: MessagesApi, start_chat: StartChat) -> None:
    model.say('{"ok": true}')
    start_chat()
    hub.assign()
    assert hub.wait_for("task.completed")["result"] == {"ok": True}


@pytest.mark.parametrize("api", ["openai", "ollama"])
@pytest.mark.parametrize("status", [400, 402, 403, 404, 413])
def test_a_refusal_is_told_at_once(
    hub: FakeHub, model: MessagesApi, start_chat: StartChat, api: str, status: int
) -> None:
    model.refuse(status, "no_such_thing")
    start_chat(api=api)
    hub.assign()
    failed = hub.wait_for("task.failed")
    assert failed["reason"] == "model_refused"
    assert failed["error"].startswith(f"{status} ")
    assert "no_such_thing" in failed["error"]
    assert len(model.asked) == 1


@pytest.mark.parametrize("status", [401, 429, 503])
def test_what_may_pass_is_tried_again(hub: FakeHub, model: MessagesApi, start_chat: StartChat, status: int) -> None:
    model.refuse(status, "busy", times=2, retry_after="0")
    model.say("now")
    start_chat()
    hub.assign()
    assert hub.wait_for("task.completed")["result"] == "now"
    assert len(model.asked) == 3


def test_what_does_not_pass_is_told_in_the_end(hub: FakeHub, model: MessagesApi, start_chat: StartChat) -> None:
    model.refuse(503, "busy", times=9)
    start_chat()
    hub.assign()
    failed = hub.wait_for("task.failed")
    assert (failed["reason"], failed["usage"]["input_tokens"]) == ("model_unavailable", 0)
    assert len(model.asked) == 4
    assert hub.payloads("task.progress")[0]["text"].startswith("asking again")


def test_a_model_that_cannot_be_reached_is_unavailable(hub: FakeHub, start_chat: StartChat) -> None:
    start_chat()
    hub.assign()
    assert hub.wait_for("task.failed")["reason"] == "model_unavailable"


@pytest.mark.parametrize(
    ("timeouts", "timeout_s", "reason"),
    [({"firstOutput": 0.5}, 20, "first_output"), ({}, 0.5, "timeout")],
)
def test_a_model_that_says_nothing_ends_in_time(
    hub: FakeHub, model: MessagesApi, start_chat: StartChat, timeouts: object, timeout_s: float, reason: str
) -> None:
    model.keep_silent()
    start_chat(timeouts=timeouts)
    hub.assign(timeout_s=timeout_s)
    assert hub.wait_for("task.failed")["reason"] == reason


def test_it_can_be_cancelled_while_the_model_thinks(hub: FakeHub, model: MessagesApi, start_chat: StartChat) -> None:
    model.keep_silent()
    start_chat()
    payload = hub.assign()
    model.wait_for()
    hub.deliver("task.cancel", {key: payload[key] for key in ("task", "run", "generation")})
    failed = hub.wait_for("task.failed")
    assert (failed["reason"], failed["exit_code"]) == ("cancelled", 143)


def test_an_answer_that_is_too_large_is_a_failure(hub: FakeHub, model: MessagesApi, start_chat: StartChat) -> None:
    model.say("ä" * 60)
    start_chat()
    hub.assign(output={"maxSize": 100, "artefacts": []})
    failed = hub.wait_for("task.failed")
    assert (failed["reason"], failed["error"]) == ("too_large", "the answer has more than 100 bytes")


def test_without_prompt_and_input_nothing_is_asked(hub: FakeHub, model: MessagesApi, start_chat: StartChat) -> None:
    start_chat()
    hub.assign(prompt="", input=None)
    assert hub.wait_for("task.failed")["reason"] == "spawn"
    assert model.asked == []


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
PART = b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (STREAM + PART, "broke off before its end"),
        (STREAM + PART + b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (STREAM + PART + b"data: {\n\n", "not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\n" + PART, "broke off"),
    ],
)
def test_half_an_answer_is_none_and_is_not_asked_for_again(
    hub: FakeHub, hub_directory: Path, start_chat: StartChat, answer: bytes, error: str
) -> None:
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hub_directory / "llm.sock"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as request:
                sizes = [line.split()[1] for line in iter(request.readline, b"\r\n") if line.startswith(b"Content-Le")]
                asked.append(request.read(int(sizes[0])))  # all of it: to close earlier would break off the answer too
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        start_chat()
        hub.assign()
        failed = hub.wait_for("task.failed")
    assert failed["reason"] == "model_unavailable"
    assert error in failed["error"]
    assert len(asked) == 1


# --- what its lines mean ----------------------------------------------------------------------------------------------


def hear(*lines: object, limit: int = 100) -> Talk:
    talk = Talk(limit)
    for line in lines:
        talk.take(json.dumps(line).encode())
    return talk


def end(exit_code: int = 0, reason: str = "exit", error: str = "") -> Ended:
    return Ended(exit_code=exit_code, reason=reason, error=error, stdout=b"", stderr_tail="", duration_s=1.0)


USED = {"usage": {"model": "m", "input_tokens": 3}}


def test_the_pieces_make_one_text() -> None:
    done = Completed(result="a b", duration_s=1.0, usage=Usage(model="m", input_tokens=3))
    assert conclude(end(), hear({"text": "a"}, {"text": ""}, {"text": " b"}, USED)) == done


def test_a_client_that_broke_is_a_failure() -> None:
    outcome = conclude(end(1, error="exited with code 1"), hear({"text": "a"}))
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.error) == ("exit", "exited with code 1")


def test_at_a_shutdown_what_came_so_far_is_told() -> None:
    outcome = conclude(end(143, "shutdown", "stopped: shutdown"), hear({"text": "so far"}))
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.partial) == ("shutdown", "so far")


def test_a_text_without_end_does_not_fill_the_memory() -> None:
    talk = hear(*[{"text": "x" * 30}] * 50, USED)
    assert len(talk.text) <= 100
    assert isinstance(conclude(end(), talk), Failed)
