"""A local HTTP server that takes notices: each test says how it answers."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Post:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def notice(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


@dataclass(slots=True)
class Receiver:
    """`answer` is called with the number of the request, from 1 on, and says the status."""

    url: str = ""
    posts: list[Post] = field(default_factory=list)
    answer: Callable[[int], int] = lambda _n: 204
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def types(self) -> list[tuple[str, str]]:
        return [(p.notice["status"], p.notice["type"]) for p in self.posts]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a port of 127.0.0.1."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with receiver.lock:
                receiver.posts.append(Post(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                number = len(receiver.posts)
            status = receiver.answer(number)
            self.send_response(status)
            if status in (301, 302):
                self.send_header("location", f"{receiver.url}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
