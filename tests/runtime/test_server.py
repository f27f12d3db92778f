"""Servers that outlive the hub: known by pid and start time, and asked in time. See also tests/egress."""

import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.errors import EgressError, EgressRefusedError
from reconciler.runtime.pid import read_process
from reconciler.runtime.server import Server, pid_file, read_pid_file, write_pid_file


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as run:
        yield Server(
            name="test",
            module="reconciler.nothing",
            run=Path(run),
            data=tmp_path,
            fleet="f",
            error=EgressError,
            refusal=EgressRefusedError,
        )


@contextmanager
def answering(server: Server, answer: bytes) -> Iterator[None]:
    """Somebody listens, and says this to each caller."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(server.control_socket))
        listening.listen()

        def serve() -> None:
            link, _ = listening.accept()
            with link:
                link.recv(65536)
                link.sendall(answer)
                link.shutdown(socket.SHUT_WR)
                while link.recv(65536):
                    """A connection that is closed with something unread is reset, and the answer lost."""

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(60)


def http(status: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


def test_a_pid_file_names_a_process_only_while_it_is_the_same_one(tmp_path: Path) -> None:
    assert read_pid_file(tmp_path, "x") is None
    write_pid_file(tmp_path, "x", os.getpid())
    assert read_pid_file(tmp_path, "x") == read_process(os.getpid())
    for text in (f"{os.getpid()} 1\n", "garbage", "", "1 2 3"):
        pid_file(tmp_path, "x").write_text(text)
        assert read_pid_file(tmp_path, "x") is None


def test_what_it_answers_is_an_object_a_refusal_or_an_error(server: Server) -> None:
    assert not server.is_listening()
    with pytest.raises(EgressError, match="it does not answer"):
        server.call("GET", "/report")
    with answering(server, http("200 OK", {"a": 1})):
        assert server.call("GET", "/report") == {"a": 1}
    server.control_socket.unlink()
    with answering(server, http("400 Bad Request", {"reason": "no"})), pytest.raises(EgressRefusedError, match="no"):
        server.call("PUT", "/config", {})
    server.control_socket.unlink()
    with answering(server, http("500 Oops", {})), pytest.raises(EgressError, match="Oops") as found:
        server.call("PUT", "/config", {})
    assert type(found.value) is EgressError
    for answer in (http("200 OK", [1]), b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", b"nonsense\r\n\r\n"):
        server.control_socket.unlink()
        with answering(server, answer), pytest.raises(EgressError):
            server.call("GET", "/report")


def test_one_that_ends_at_once_is_said_with_its_log(server: Server) -> None:
    with pytest.raises(EgressError, match=r"starting the test process: it ended at once; see .*/log/test\.log"):
        server.start()
    assert "No module named" in server.log.read_text()
