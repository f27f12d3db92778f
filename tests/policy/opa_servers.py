"""OPA for tests: the real program where there is one, and a server that answers whatever a test says.

`RECONCILER_REQUIRE_OPA` in the environment turns skipping for want of the program into a failure.
"""

import contextlib
import http.client
import json
import os
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.address import TcpAddress, UnixAddress
from reconciler.policy.bundle import answer_module
from reconciler.policy.opa_answer import ANSWER_PATH, REVISION_PATH
from reconciler.policy.opa_process import find_program

_BETWEEN_DROPS_S = 0.05


def need_opa() -> str:
    """The program, or the test is skipped."""
    program = find_program(None)
    if program is None:
        assert not os.environ.get("RECONCILER_REQUIRE_OPA"), "there is no OPA, and RECONCILER_REQUIRE_OPA is set"
        pytest.skip("no OPA: set RECONCILER_OPA, or install opa")
    return program


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """A directory with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="ro", dir="/tmp") as folder:
        yield Path(folder)


class RealOpa:
    """One server of the real program, with nothing loaded at first."""

    def __init__(self, folder: Path) -> None:
        self.address = self.address_in(folder)
        self._program = need_opa()
        self._folder = folder
        self.process = self._start()

    @staticmethod
    def address_in(folder: Path) -> UnixAddress:
        return UnixAddress(path=str(folder / "opa.sock"))

    def restart(self) -> None:
        """End it, and start it without anything that it had."""
        self.kill()
        self.process = self._start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def put(self, revision: str, rego: str, kind: str = "message") -> None:
        """One module and the hub's own, at a revision."""
        self.call("PUT", f"/v1/data/{REVISION_PATH}", json.dumps(revision))
        self.call("PUT", "/v1/policies/policy", f"package hub.{kind}\nimport rego.v1\n{rego}\n")
        self.call("PUT", "/v1/policies/answer", answer_module([kind]))

    def call(self, method: str, path: str, body: str = "") -> Any:
        """The JSON that it answers. Fails on any error."""
        with socket.socket(socket.AF_UNIX) as link, contextlib.closing(http.client.HTTPConnection("opa")) as connection:
            link.settimeout(60)
            link.connect(self.address.path)
            connection.sock = link
            connection.request(method, path, body.encode())
            response = connection.getresponse()
            content = response.read()
        assert response.status < 300, content
        return json.loads(content) if content else None

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = ["run", "--server", "--addr", str(self.address), "--skip-version-check", "--log-level", "error"]
        with open(self._folder / "opa.log", "ab") as log:
            process = subprocess.Popen([self._program, *arguments], stdout=log, stderr=log)
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                self.call("GET", "/health")
                return process
            assert process.poll() is None, (self._folder / "opa.log").read_text()
            assert time.monotonic() < end, "OPA does not listen"
            time.sleep(0.02)


@contextlib.contextmanager
def real_opa() -> Iterator[RealOpa]:
    with socket_folder() as folder:
        server = RealOpa(folder)
        try:
            yield server
        finally:
            server.kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the fake says: a status with a body, or `raw` bytes instead of all that; then perhaps no more.

    With `drops` the raw bytes are followed by one of its own after the other, a little time between them.
    """

    status: int = 200
    body: object = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    drops: bytes = b""
    is_last: bool = False


React = Callable[[str, Any], Said | None]
"""From path and body to what is said; None says nothing and ends the connection."""


class FakeOpa:
    """An HTTP server in threads. `react` may be replaced at any time; `asked` lists paths and bodies."""

    def __init__(self, address: TcpAddress | UnixAddress | None = None) -> None:
        self.react: React = answering({})
        self.asked: list[tuple[str, Any]] = []
        self.links: list[socket.socket] = []
        self.released = threading.Event()
        self._server = _make_server(self, address)
        found = self._server.server_address
        self.address = (
            UnixAddress(path=str(found)) if isinstance(found, str) else TcpAddress(host="127.0.0.1", port=int(found[1]))
        )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self.links)

    def hang(self, _path: str, _body: Any) -> Said | None:
        """As `react`: says nothing until the server is closed."""
        self.released.wait(60)
        return None

    def drop_all(self) -> None:
        """End all connections, as a process does that ends."""
        for link in self.links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def fake_opa(react: React | None = None) -> Iterator[FakeOpa]:
    """On a port of this host."""
    server = FakeOpa()
    if react is not None:
        server.react = react
    try:
        yield server
    finally:
        server.close()


def answering(result: object, revision: str | None = None) -> React:
    """What OPA says with this decision document; `revision` to the question for it."""

    def react(path: str, _body: Any) -> Said:
        if path == f"/v1/data/{REVISION_PATH}":
            return Said(body={} if revision is None else {"result": revision})
        return Said(body={} if result is None else {"result": result})

    return react


def is_question(path: str) -> bool:
    return path.startswith(f"/v1/data/{ANSWER_PATH}/")


def at_revision(revision: str, react: React) -> React:
    """Says the revision when asked for it, and reacts to questions as told."""

    def both(path: str, body: Any) -> Said | None:
        return react(path, body) if is_question(path) else Said(body={"result": revision})

    return both


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = False
    fake: FakeOpa

    def setup(self) -> None:
        super().setup()
        self.fake.links.append(self.connection)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.partition("?")[0]
        self.fake.asked.append((self.path, body))
        said = self.fake.react(path, body)
        self.close_connection = said is None or said.is_last
        if said is None:
            return
        if said.raw is not None:
            self.wfile.write(said.raw)
            for drop in said.drops:
                self.fake.released.wait(_BETWEEN_DROPS_S)
                self.wfile.write(bytes([drop]))
            return
        content = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        self.send_response(said.status)
        for name, value in {"Content-Length": str(len(content)), **said.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "test"

    def log_message(self, *_: object) -> None:
        pass


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Callers that go away are part of the tests."""


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """As above."""


def _make_server(fake: FakeOpa, address: TcpAddress | UnixAddress | None) -> _TcpServer | _UnixServer:
    handler = type("Handler", (_Handler,), {"fake": fake})
    if isinstance(address, UnixAddress):
        return _UnixServer(address.path, handler)
    return _TcpServer(("127.0.0.1", address.port if address else 0), handler)
