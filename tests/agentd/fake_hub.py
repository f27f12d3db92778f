"""A hub for one agent on a real unix socket: records what comes in, answers as it is told.

It keeps the promises of the agent plane: token, 202, problem answers, long poll, cursor. `start`
and `stop` may be called in turn; what is in the mailbox and what was received outlives them,
cursors do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

WAIT_S = 60.0


@dataclass
class Attempt:
    """One POST of a message, accepted or not."""

    message: dict[str, Any]
    status: int
    token: str


@dataclass
class Refusal:
    type: str
    status: int
    code: str
    retry_after: str = ""
    drop_answer: bool = False


@dataclass
class FakeHub:
    directory: Path
    tokens: set[str] = field(default_factory=lambda: {"token-1"})
    accepts_hello: bool = True
    cancels: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    mailbox: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    acks: list[str] = field(default_factory=list)
    is_delivered: set[int] = field(default_factory=set)
    epoch: int = 0
    connections: int = 0
    _next: int = 1
    _server: _Server | None = None

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.socket_path = str(self.directory / "hub.sock")
        self.token_file = self.directory / "agent-token"
        self.write_token("token-1")

    def write_token(self, token: str) -> None:
        """Rotate as the hub does: a new file renamed into place."""
        new = self.token_file.with_suffix(".new")
        new.write_text(token + "\n")
        new.replace(self.token_file)

    def start(self) -> None:
        self.epoch += 1
        self.is_delivered.clear()
        self._server = _Server(self.socket_path, self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on, and break those there are."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.break_connections()
            os.unlink(self.socket_path)
            with self.changed:
                self.changed.notify_all()

    def refuse(self, type_: str, status: int, code: str, *, times: int = 1, retry_after: str = "") -> None:
        """The next messages of the type are answered with a problem."""
        self.refusals += [Refusal(type_, status, code, retry_after) for _ in range(times)]

    def drop_answer(self, type_: str) -> None:
        """Take the next message of the type, and break the connection instead of answering."""
        self.refusals.append(Refusal(type_, 0, "", drop_answer=True))

    def deliver(self, type_: str, payload: object, **envelope: object) -> str:
        """Put a message of the hub's own in the mailbox; returns its id."""
        with self.changed:
            id_ = f"m-{self._next}"
            message = {"id": id_, "type": type_, "from": "hub", "payload": payload, **envelope}
            self.mailbox.append((self._next, message))
            self._next += 1
            self.changed.notify_all()
        return id_

    def assign(self, task: str = "demo", **fields: object) -> dict[str, Any]:
        """Deliver a `task.assigned` with valid defaults; returns its payload."""
        payload: dict[str, Any] = {
            "task": task,
            "run": f"run-{task}",
            "generation": 1,
            "lease_s": 30,
            "timeout_s": 120,
            "prompt": "Do it.",
            "input": {"tag": "v1"},
            "parents": {},
            "workspace": "",
            "output": {"maxSize": 65536, "artefacts": []},
            "sensitivity": "internal",
            **fields,
        }
        self.deliver("task.assigned", payload)
        return payload

    def received(self, type_: str = "") -> list[dict[str, Any]]:
        """Accepted messages, in order."""
        with self.changed:
            return [a.message for a in self.attempts if a.status in (0, 200, 202) and type_ in ("", a.message["type"])]

    def payloads(self, type_: str, task: str = "") -> list[dict[str, Any]]:
        found = [m["payload"] for m in self.received(type_)]
        return [p for p in found if task in ("", p.get("task"))]

    def wait_for(self, type_: str, *, task: str = "", count: int = 1) -> dict[str, Any]:
        """The payload of the `count`-th accepted message of the type."""
        self.wait_until(lambda: len(self.payloads(type_, task)) >= count, f"{count} x {type_} {task}")
        return self.payloads(type_, task)[count - 1]

    def wait_until(self, is_true: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not is_true():
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"did not come: {what}; had {[m['type'] for m in self.received()]}"
                self.changed.wait(min(left_s, 0.05))

    # --- what the request handler asks ---

    def take(self, message: dict[str, Any], token: str) -> tuple[int, dict[str, Any], str] | None:
        """Status, body and Retry-After; None to break the connection."""
        with self.changed:
            status, body, retry_after = self._judge(message, token)
            self.attempts.append(Attempt(message, status, token))
            self.changed.notify_all()
        return (status, body, retry_after) if status else None

    def _judge(self, message: dict[str, Any], token: str) -> tuple[int, dict[str, Any], str]:
        if token not in self.tokens:
            return 401, {"code": "unauthenticated"}, ""
        refusal = next((r for r in self.refusals if r.type == message["type"]), None)
        if refusal is not None:
            self.refusals.remove(refusal)
            return refusal.status, {"code": refusal.code, "reason": "as told"}, refusal.retry_after
        if message["id"] in [a.message["id"] for a in self.attempts if a.status in (0, 200, 202)]:
            return 409, {"code": "duplicate"}, ""
        if message["type"] == "agent.hello":
            return 200, {"ok": self.accepts_hello, "instance": "demo-0"}, ""
        extra = {"cancel": self.cancels} if message["type"] == "agent.heartbeat" else {}
        return 202, {"id": message["id"], "status": "accepted", **extra}, ""

    def poll(self, wait_s: float, limit: int, ack: str, only: str, server: _Server) -> dict[str, Any]:
        """With `only` being tasks, as for a daemon that said so: nothing else is handed out or acknowledged."""
        deadline = time.monotonic() + wait_s
        with self.changed:
            epoch, _, seq = ack.partition(":")
            if ack:
                self.acks.append(ack)
                assert int(epoch) == self.epoch, "a cursor of another router"
                self.mailbox = [(n, m) for n, m in self.mailbox if n > int(seq) or not _is_for(only, m)]
            while True:
                waiting = [(n, m) for n, m in self.mailbox if n not in self.is_delivered and _is_for(only, m)]
                fresh = waiting[:limit]
                left_s = deadline - time.monotonic()
                if fresh or left_s <= 0 or server is not self._server:
                    break
                self.changed.wait(left_s)
            self.is_delivered.update(n for n, _ in fresh)
            last = max((n for n, _ in fresh), default=int(seq or 0))
            return {"messages": [m for _, m in fresh], "cursor": f"{self.epoch}:{last}"}


def _is_for(only: str, message: dict[str, Any]) -> bool:
    return not only or (only == "tasks" and str(message["type"]).startswith("task."))


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, hub: FakeHub) -> None:
        self.hub = hub
        self.connections: set[socket.socket] = set()
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        self.hub.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.server.hub.take(json.loads(body), self._token())
        if answer is None:
            self.close_connection = True
            return
        status, content, retry_after = answer
        self._answer(status, content, retry_after)

    def do_GET(self) -> None:
        query = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        if self._token() not in self.server.hub.tokens:
            self._answer(401, {"code": "unauthenticated"})
            return
        ack, only = query.get("ack", ""), query.get("only", "")
        found = self.server.hub.poll(float(query["wait"]), int(query["max"]), ack, only, self.server)
        self._answer(200, found)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").partition("Bearer ")[2]

    def _answer(self, status: int, body: dict[str, Any], retry_after: str = "") -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def address_string(self) -> str:
        return "unix"
