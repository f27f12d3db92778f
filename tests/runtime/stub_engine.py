"""A Docker Engine that answers what a test tells it to, on a unix socket of its own."""

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

VERSION = {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}
INFO = {
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "SecurityOptions": ["name=seccomp,profile=default"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    method: str
    path: str
    query: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`stall` never answers, `hang_up` closes the connection instead.

    `chunks` are sent one by one; after them the answer ends, unless it stalls or hangs up.
    """

    status: int = 200
    body: Any = None
    chunks: Sequence[bytes] | None = None
    stall: bool = False
    hang_up: bool = False


@dataclass(slots=True)
class StubEngine:
    """`answers` by method and the end of the path, in turn; the last one stays."""

    path: Path
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def on(self, method: str, ending: str, *answers: Answer) -> None:
        self.answers[method, ending] = list(answers)

    def always(self, answer: Answer) -> None:
        """The same answer to whatever is asked, version and features apart."""
        for method in ("GET", "POST", "DELETE"):
            self.on(method, "", answer)

    def paths(self, ending: str = "") -> list[str]:
        return [asked.path for asked in self.asked if asked.path.endswith(ending)]

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        fitting = [key for key in self.answers if key[0] == asked.method and _fits(asked, key[1])]
        if not fitting:
            return Answer(status=404, body={"message": f"nothing said about {asked.path}"})
        answers = self.answers[max(fitting, key=lambda key: len(key[1]))]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def _fits(asked: Asked, ending: str) -> bool:
    is_about_engine = asked.path.endswith(("/version", "/info"))
    return asked.path.endswith(ending) and not (ending == "" and is_about_engine)


@contextmanager
def stub_engine(directory: Path) -> Iterator[StubEngine]:
    stub = StubEngine(directory / "d.sock")
    stub.on("GET", "/version", Answer(body=VERSION))
    stub.on("GET", "/info", Answer(body=INFO))
    with _Server(str(stub.path), _handler(stub)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield stub
        stub.over.set()
        server.shutdown()
        for connection in stub.connections:
            _shut(connection)
        thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 64


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # closed already


def _handler(stub: StubEngine) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            stub.connections.append(self.connection)

        def reply(self) -> None:
            answer = stub.answer(self._asked())
            if answer.chunks is not None:
                self._begin_stream(answer)
            if answer.stall:
                stub.over.wait()
            if answer.stall or answer.hang_up:
                self.close_connection = True
            elif answer.chunks is not None:
                self.wfile.write(b"0\r\n\r\n")
            else:
                self._send(answer)

        do_GET = do_POST = do_DELETE = reply  # noqa: N815 - the names that the server looks for

        def _send(self, answer: Answer) -> None:
            text = isinstance(answer.body, str)
            content = (answer.body if text else json.dumps(answer.body)).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/html" if text else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _asked(self) -> Asked:
            url = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return Asked(
                method=self.command,
                path=url.path,
                query={key: values[0] for key, values in parse_qs(url.query).items()},
                body=json.loads(content) if content else None,
            )

        def _begin_stream(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in answer.chunks or ():
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
