"""An egress process of a test's own, configured and with instances, and calls on their sockets as agents make them."""

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.egress.client import EgressLink
from reconciler.egress.ledger import Row, read_usage
from reconciler.identity.token import token_digest

FLEET = "00c0ffee"
MODEL = "claude-opus"
TOKEN = "t" * 43


@dataclass(frozen=True)
class Reply:
    """`body` is JSON where it is that, else bytes."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def code(self) -> str:
        return self.headers.get("hub-code", "")


@dataclass
class Place:
    """The process, and where it is. Rows of the ledger count from `since`."""

    run: Path
    data: Path
    link: EgressLink
    config: dict[str, Any] = field(default_factory=dict)
    since: int = 0

    def configure(self, **config: Any) -> None:
        self.config = {**self.config, **config}
        self.link.configure({"digest": f"d{time.monotonic_ns()}", **self.config})

    def register(self, name: str = "writer-0", **entry: Any) -> "Agent":
        """An instance on the route anthropic/claude-opus, unless another entry is given."""
        token = entry.pop("token", TOKEN)
        self.link.put_instance(name, entry_of(name, token=token, **entry))
        return Agent(socket_path=self.run / "hub" / name / "llm.sock", token=token)

    def rows(self, count: int = 1) -> Sequence[Row]:
        """The rows of the ledger, once there are so many."""
        until(lambda: len(self.written()) >= count)
        return self.written()

    def written(self) -> Sequence[Row]:
        return read_usage(self.data, 0.0)[self.since :]

    def state(self) -> Mapping[str, Any]:
        return self.link.state()

    @property
    def log(self) -> str:
        return (self.data / "log" / "egress.log").read_text()


@dataclass(frozen=True)
class Agent:
    """What runs in a sandbox: it knows its socket and its token."""

    socket_path: Path
    token: str

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """The whole answer. Without headers the token is shown as a bearer."""
        shown = {"Authorization": f"Bearer {self.token}"} if headers is None else dict(headers)
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with closing(http.client.HTTPConnection("hub", timeout=60)) as connection:
            connection.sock = self.connect()
            connection.request(method, path, content, {"Content-Type": "application/json", **shown})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())

    def ask(self, **more: Any) -> Reply:
        """One message to the model; keywords are members of the body, and `headers` further headers."""
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return self.call("POST", "/llm/anthropic/v1/messages", question(**more), headers)

    def chat(self, **more: Any) -> Reply:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return self.call("POST", "/llm/openai/v1/chat/completions", question(**more), headers)

    def connect(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(60)
        try:
            link.connect(str(self.socket_path))
        except OSError:
            link.close()
            raise
        return link

    def begin(self, **more: Any) -> socket.socket:
        """Send a message, and leave the answer to the caller."""
        body = json.dumps(question(**more)).encode()
        link = self.connect()
        link.sendall(
            b"POST /llm/anthropic/v1/messages HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self.token.encode(), len(body), body)
        )
        return link


def question(**more: Any) -> dict[str, Any]:
    """The body of a request to the model."""
    return {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "Say it."}], **more}


def entry_of(name: str, *, token: str = TOKEN, **more: Any) -> dict[str, Any]:
    shown = [{"sha256": token_digest(token), "expires_at": time.time() + 3600}]
    route = {"provider": "anthropic", "model": MODEL}
    base = {"agent": name.rpartition("-")[0], "uid": os.geteuid(), "tokens": shown, "route": route, "digest": "e1"}
    return {**base, **more}


def provider(url: str, **more: Any) -> dict[str, Any]:
    """An entry of the configuration."""
    prices = {MODEL: {"input": 10.0, "output": 50.0, "cache_read": 1.0, "cache_write": 12.5}}
    return {"type": "anthropic", "url": url, "exposure": "public", "models": prices, **more}


@contextmanager
def egress_process(run: Path, data: Path) -> Iterator[Place]:
    link = EgressLink(FLEET, run, data)
    link.start()
    try:
        yield Place(run=run, data=data, link=link)
    finally:
        link.stop()


def until(condition: Any, timeout_s: float = 60.0) -> None:
    """Poll until the condition holds. Raises AssertionError after the time-out."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
