"""A provider of which a test decides each byte: it accepts one connection after the other, and does as it is told."""

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Line:
    """One connection, seen from the provider."""

    socket: socket.socket
    rest: bytes = b""

    def receive(self) -> bytes:
        """One whole request; empty when the connection ended."""
        while b"\r\n\r\n" not in self.rest:
            if not self._more():
                return b""
        head, _, rest = self.rest.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.rest = rest
        while len(self.rest) < length:
            self._more()
        body, self.rest = self.rest[:length], self.rest[length:]
        return head + b"\r\n\r\n" + body

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def chunk(self, content: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(content), content))

    def answer(self, body: bytes = b"{}", status: bytes = b"200 OK", head: bytes = b"") -> None:
        self.send(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), head, body))

    def is_ended(self) -> bool:
        """Whether the other side ends it within a minute."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self.rest += data
        return bool(data)


@dataclass
class RawProvider:
    """`serve` is called with each connection, in a thread of its own; `lines` are those that came."""

    serve: Callable[[Line], None]
    lines: list[Line] = field(default_factory=list)

    def __enter__(self) -> "RawProvider":
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._start(self._accept)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for line in self.lines:
            with contextlib.suppress(OSError):
                line.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=60)
        for line in self.lines:
            line.socket.close()

    def _start(self, work: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listening.accept()
            except OSError:
                return
            link.settimeout(60)
            line = Line(link)
            self.lines.append(line)
            self._start(self._serve, line)

    def _serve(self, line: Line) -> None:
        try:
            self.serve(line)
        except OSError:
            """The relay ended it; a test that cares looks at the line."""


def read_all(link: socket.socket) -> bytes:
    """Everything until the other side ends the connection, which is closed then."""
    parts: list[bytes] = []
    with link:
        while True:
            try:
                data = link.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return b"".join(parts)
            parts.append(data)


def receive_until(link: socket.socket, sign: bytes) -> bytes:
    """What came up to and with `sign`, and whatever was behind it."""
    found = b""
    while sign not in found:
        data = link.recv(65536)
        assert data, found
        found += data
    return found


def take_chunk(link: socket.socket, rest: bytes) -> tuple[bytes, bytes]:
    while b"\r\n" not in rest:
        rest += link.recv(65536)
    size, _, rest = rest.partition(b"\r\n")
    length = int(size, 16)
    while len(rest) < length + 2:
        rest += link.recv(65536)
    return rest[:length], rest[length + 2 :]


def receive_until_end(link: socket.socket, rest: bytes) -> bytes:
    while not rest.endswith(b"0\r\n\r\n"):
        rest += link.recv(65536)
    return rest
