"""A real router process, and agents that speak to it over their own sockets, for the tests of this folder."""

import contextlib
import hashlib
import http.client
import json
import random
import secrets
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reconciler.router.channel import call
from reconciler.router.client import RouterLink

FLEET = "00c0ffee"

both_transports = pytest.mark.parametrize("fleet", ["unix", "tls"], indirect=True)
"""What agents are promised on a socket of their own holds by TLS too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What an agent was answered."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        return str(self.body["code"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPlace:
    """Where instances without a socket come in, and the certificate of the authority that they trust."""

    port: int
    ca_file: Path

    def dial(self, timeout_s: float, *, name: str = "127.0.0.1") -> socket.socket:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        raw = socket.create_connection(("127.0.0.1", self.port), timeout_s)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(raw, server_hostname=name)


@dataclass(slots=True, kw_only=True)
class Agent:
    """One instance as its container sees it: a socket, or a place on the network, and a token."""

    name: str
    socket_path: Path
    token: str
    tls: TlsPlace | None = None
    sent: int = 0

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Reply:
        """One request on a connection of its own. `body` is JSON unless it is bytes."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with self.connect(timeout_s) as connection:
            named = {"Authorization": f"Bearer {self.token if token is None else token}"}
            connection.request(method, path, body=content, headers={**named, **(headers or {})})
            return read_reply(connection.getresponse())

    @contextlib.contextmanager
    def connect(self, timeout_s: float = 60.0) -> Iterator[http.client.HTTPConnection]:
        with self.dial(timeout_s) as link:
            connection = http.client.HTTPConnection("hub")
            connection.sock = link
            try:
                yield connection
            finally:
                connection.close()

    def dial(self, timeout_s: float = 60.0) -> socket.socket:
        """A connection of its own."""
        if self.tls is not None:
            return self.tls.dial(timeout_s)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(timeout_s)
        try:
            link.connect(str(self.socket_path))
        except OSError:
            link.close()
            raise
        return link

    def envelope(self, type_: str, pattern: str = "event", **fields: object) -> dict[str, object]:
        self.sent += 1
        return {"id": f"{self.name}-{self.sent}-{secrets.token_hex(4)}", "type": type_, "pattern": pattern, **fields}

    def send(self, type_: str, pattern: str = "event", *, wait_s: float = 0, **fields: object) -> Reply:
        query = f"?wait={wait_s}" if wait_s else ""
        return self.call("POST", f"/api/hub/messages{query}", self.envelope(type_, pattern, **fields))

    def hello(self, **more: object) -> Reply:
        payload = {"version": "1", "capabilities": ["docs.write"], "executor": "command", **more}
        return self.send("agent.hello", "request", wait_s=25, to="hub", payload=payload)

    def poll(self, *, wait_s: float = 0, ack: str | None = None, max_: int = 100, only: str = "") -> Reply:
        ack_part = f"&ack={ack}" if ack is not None else ""
        only_part = f"&only={only}" if only else ""
        return self.call("GET", f"/api/hub/messages?wait={wait_s}&max={max_}{ack_part}{only_part}")

    def receive(self, *, wait_s: float = 25) -> list[dict[str, Any]]:
        """Poll and acknowledge."""
        polled = self.poll(wait_s=wait_s)
        assert polled.status == 200
        if polled.body["messages"]:
            assert self.call("POST", "/api/hub/messages/ack", {"cursor": polled.body["cursor"]}).status == 204
        return list(polled.body["messages"])


@dataclass(slots=True, kw_only=True)
class Fleet:
    """The router of one test. Instances have sockets, or with `tls_port` come in there."""

    run: Path
    data: Path
    link: RouterLink
    config: dict[str, Any]
    tls_port: int | None = None
    agents: dict[str, Agent] = field(default_factory=dict)
    since: int = 0
    inbox_since: int = 0

    def configure(self, **sections: object) -> None:
        self.config = {**self.config, **sections, "digest": secrets.token_hex(4)}
        self.link.configure(self.config)

    @property
    def tls(self) -> TlsPlace | None:
        return None if self.tls_port is None else TlsPlace(port=self.tls_port, ca_file=self.data / "tls" / "ca.crt")

    def register(
        self,
        instance: str,
        *,
        agent: str = "",
        hello: bool = True,
        expires_in_s: float = 3600,
        socket: bool = False,
        capabilities: Sequence[str] | None = None,
    ) -> Agent:
        """With `socket` it has one in any case; with `capabilities` it is made for one delegated task."""
        token = secrets.token_urlsafe(32)
        entry = instance_entry(agent or instance.rpartition("-")[0], [(token, time.time() + expires_in_s)])
        entry |= {"capabilities": list(capabilities)} if capabilities is not None else {}
        place = None if socket else self.tls
        self.link.put_instance(instance, {**entry, "transport": "tls"} if place else entry)
        path = self.run / "hub" / instance / "hub.sock"
        self.agents[instance] = Agent(name=instance, socket_path=path, token=token, tls=place)
        if hello:
            assert self.agents[instance].hello().status == 200
        return self.agents[instance]

    def sleep(self, instance: str) -> None:
        """As the hub registers one that sleeps: without a token."""
        self.link.put_instance(instance, instance_entry(instance.rpartition("-")[0], []))

    def rows(self, where: str = "1", *values: object) -> list[dict[str, Any]]:
        """Rows of message_log since the test began, oldest first.

        Denials that are only counted come once a second, in rows without type and size: also those of the test before.
        """
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'traffic.db'}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute(
                f"SELECT * FROM message_log WHERE seq > {self.since} AND ({where}) ORDER BY seq", values
            )
            return [dict(row) for row in found]

    def state(self) -> Any:
        """The report as the router gives it."""
        return call(self.run, "GET", "/report")

    def report(self) -> Any:
        return self.link.report().value  # type: ignore[union-attr]


def instance_entry(agent: str, tokens: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """What `PUT /instances` takes, from tokens and their expiry."""
    shown = [{"sha256": hashlib.sha256(t.encode()).hexdigest(), "expires_at": at} for t, at in tokens]
    return {"agent": agent, "uid": 0, "tokens": shown, "digest": hashlib.sha256(repr(tokens).encode()).hexdigest()}


def basic_config(**sections: Any) -> dict[str, Any]:
    """Agents writer and reviewer: the writer may ask the reviewer and publish under docs."""
    return {
        "digest": "c0",
        "revision": "rev0",
        "agents": {
            "writer": {
                "role": "writer",
                "sends": [
                    {"to": "reviewer", "types": ["review.request", "review.note"]},
                    {"topic": "docs.>", "types": ["docs.published"]},
                ],
            },
            "reviewer": {"role": "reviewer", "subscribes": [{"topic": "docs.*"}]},
            "archive": {"subscribes": [{"topic": "docs.>", "delivery": "all"}]},
        },
        **sections,
    }


def read_reply(response: http.client.HTTPResponse) -> Reply:
    content = response.read()
    return Reply(status=response.status, body=json.loads(content) if content else None, headers=response.headers)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that the kernel gives to nobody who does not ask for it.

    Linux gives away ports from 32768 on, to clients and to listeners on any port.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def tls_entry(port: int) -> dict[str, Any]:
    """The section `tls` of a configuration."""
    return {"host": "127.0.0.1", "port": port, "names": ["127.0.0.1", "hub.test"]}


def until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Poll until the condition holds. Raises AssertionError after the time-out."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
