"""A stand-in for a model provider on a real socket: the Messages API (SSE and plain) and both sorts of chat.

`POST …/v1/messages`, `…/v1/messages/count_tokens`, `…/v1/chat/completions`, `…/api/chat`, whatever stands before
these in the path. It answers what it was told to say, in order, and "done" after that; what was asked is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

WAIT_S = 10.0
DONE: Mapping[str, Any] = {"type": "text", "text": "done"}


@dataclass(frozen=True)
class Asked:
    """One request. Names in `headers` are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What one request is answered: a content block, an error, or nothing until the stand-in is closed."""

    block: Mapping[str, Any] = field(default_factory=lambda: DONE)
    input_tokens: int = 12
    output_tokens: int = 7
    status: int = 200
    error: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_silent: bool = False


class MessagesApi:
    """Listens on a unix socket where `path` names one, else on a free port of 127.0.0.1, told by `url`."""

    def __init__(self, path: str = "") -> None:
        self.asked: list[Asked] = []
        self.answers: list[Answer] = []
        self.streams = True
        self.changed = threading.Condition()
        self.is_closed = threading.Event()
        self._path = path
        self._server: _UnixServer | _TcpServer = _UnixServer(path, _Handler) if path else _TcpServer(_Handler)
        self._server.api = self
        self.url = "" if path else f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def __enter__(self) -> MessagesApi:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.is_closed.set()
        self._server.shutdown()
        self._server.server_close()
        if self._path:
            os.unlink(self._path)

    # --- what the next requests are answered, in order ---

    def say(self, text: str, *, input_tokens: int = 12, output_tokens: int = 7) -> None:
        block = {"type": "text", "text": text}
        self.answers.append(Answer(block=block, input_tokens=input_tokens, output_tokens=output_tokens))

    def use_tool(self, name: str, **fields: object) -> None:
        self.answers.append(Answer(block={"type": "tool_use", "id": "toolu_1", "name": name, "input": fields}))

    def refuse(self, status: int, error: str, *, times: int = 1, **headers: str) -> None:
        """`error` is the type in the body; `retry_after="1"` becomes the header `retry-after`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers += [Answer(status=status, error=error, headers=named)] * times

    def keep_silent(self) -> None:
        self.answers.append(Answer(is_silent=True))

    # --- what was asked ---

    def models(self) -> list[str]:
        return [
            str(asked.body["model"]) for asked in self.asked if isinstance(asked.body, dict) and "model" in asked.body
        ]

    def wait_for(self, count: int = 1) -> Asked:
        """The `count`-th request."""
        deadline = time.monotonic() + WAIT_S
        with self.changed:
            while len(self.asked) < count:
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"{len(self.asked)} of {count} requests came"
                self.changed.wait(left_s)
        return self.asked[count - 1]

    def take(self, asked: Asked) -> Answer:
        with self.changed:
            self.asked.append(asked)
            self.changed.notify_all()
            return self.answers.pop(0) if self.answers else Answer()


class _Server(socketserver.ThreadingMixIn):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    api: MessagesApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of the tests."""


class _UnixServer(_Server, socketserver.UnixStreamServer):
    pass


class _TcpServer(_Server, socketserver.TCPServer):
    allow_reuse_address = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _UnixServer | _TcpServer

    def setup(self) -> None:
        super().setup()
        with contextlib.suppress(OSError):
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_HEAD(self) -> None:
        self._send(200, "text/plain", b"")

    def do_GET(self) -> None:
        self.server.api.take(self._asked(None))
        self._send_json(200, {"data": [], "has_more": False})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        path = self.path.partition("?")[0]
        if path.endswith("/count_tokens"):
            self._send_json(200, {"input_tokens": 12})
            return
        answer = self.server.api.take(self._asked(body))
        if answer.is_silent:
            self.server.api.is_closed.wait()
            self.close_connection = True
        elif answer.status != 200:
            self._send_json(answer.status, _write_error(path, answer), answer.headers)
        elif path.endswith("/v1/messages"):
            self._answer_message(body, answer)
        elif path.endswith("/v1/chat/completions"):
            self._answer_chat(body, answer, _write_completion, stream_completion, "text/event-stream")
        elif path.endswith("/api/chat"):
            self._answer_chat(body, answer, _write_chat, stream_chat, "application/x-ndjson")
        else:
            self._send_json(404, _write_error(path, Answer(error="not_found_error")))

    def _answer_message(self, body: Mapping[str, Any], answer: Answer) -> None:
        if not (body.get("stream") and self.server.api.streams):
            self._send_json(200, _write_message(body, answer))
            return
        events = stream_message(body, answer)
        self._stream("text/event-stream", (f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events))

    def _answer_chat(
        self,
        body: Mapping[str, Any],
        answer: Answer,
        write: Callable[[Mapping[str, Any], Answer], Mapping[str, Any]],
        stream: Callable[[Mapping[str, Any], Answer], Iterator[str]],
        kind: str,
    ) -> None:
        if body.get("stream") and self.server.api.streams:
            self._stream(kind, stream(body, answer))
        else:
            self._send_json(200, write(body, answer))

    def _stream(self, kind: str, chunks: Iterable[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            content = chunk.encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.write(b"0\r\n\r\n")

    def _asked(self, body: object) -> Asked:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Asked(method=self.command, path=self.path, headers=headers, body=body)

    def _send_json(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(content).encode(), headers)

    def _send(self, status: int, kind: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def address_string(self) -> str:
        return "somebody"


def stream_message(body: Mapping[str, Any], answer: Answer) -> Iterator[Mapping[str, Any]]:
    """The events of one streamed message, as the Messages API sends them."""
    message = _write_message(body, answer)
    block = dict(answer.block)
    yield {
        "type": "message_start",
        "message": {
            **message,
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": answer.input_tokens, "output_tokens": 1},
        },
    }
    if block["type"] == "text":
        delta = {"type": "text_delta", "text": block["text"]}
        block["text"] = ""
    else:
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        block["input"] = {}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "ping"}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {"output_tokens": answer.output_tokens}}
    yield {"type": "message_stop"}


def stream_completion(body: Mapping[str, Any], answer: Answer) -> Iterator[str]:
    """The chunks of one streamed completion, as OpenAI's API sends them; the last one counts, where that was asked."""
    whole = _write_completion(body, answer)
    head = {"id": whole["id"], "object": "chat.completion.chunk", "model": whole["model"]}
    for delta in ({"role": "assistant", "content": ""}, *({"content": p} for p in _cut(answer.block["text"]))):
        yield f"data: {json.dumps({**head, 'choices': [{'index': 0, 'delta': delta, 'finish_reason': None}]})}\n\n"
    yield f"data: {json.dumps({**head, 'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]})}\n\n"
    if (body.get("stream_options") or {}).get("include_usage"):
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': whole['usage']})}\n\n"
    yield "data: [DONE]\n\n"


def stream_chat(body: Mapping[str, Any], answer: Answer) -> Iterator[str]:
    """The lines of one streamed chat, as Ollama sends them; the last one counts."""
    whole = _write_chat(body, answer)
    for part in _cut(answer.block["text"]):
        message = {"role": "assistant", "content": part}
        yield f"{json.dumps({'model': whole['model'], 'message': message, 'done': False})}\n"
    yield f"{json.dumps({**whole, 'message': {'role': 'assistant', 'content': ''}})}\n"


def _cut(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


def _write_message(body: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [answer.block],
        "stop_reason": "tool_use" if answer.block["type"] == "tool_use" else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens},
    }


def _write_completion(body: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.block["text"]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": body.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.input_tokens + answer.output_tokens,
        },
    }


def _write_chat(body: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    return {
        "model": body.get("model"),
        "message": {"role": "assistant", "content": answer.block["text"]},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": answer.input_tokens,
        "eval_count": answer.output_tokens,
    }


def _write_error(path: str, answer: Answer) -> dict[str, Any]:
    """In the words of the API whose path it is."""
    if path.endswith("/api/chat"):
        return {"error": answer.error}
    error = {"type": answer.error, "message": f"as told: {answer.error}"}
    return {"error": error} if path.endswith("/completions") else {"type": "error", "error": error}
