from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.agentd.forward import Forwarder
from reconciler.agentd.log import Log

Connect = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture
def forwarder(hub_directory: Path) -> Forwarder:
    made = Forwarder(str(hub_directory / "pipe.sock"), 0, Log(instance="demo-0", stream=io.StringIO()))
    threading.Thread(target=made.run, daemon=True).start()
    return made


@pytest.fixture
def connect(forwarder: Forwarder, hub_directory: Path) -> Iterator[Connect]:
    """Both ends of a new connection: the client's and the hub's."""
    opened: list[socket.socket] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(hub_directory / "pipe.sock"))
    listener.listen()
    listener.settimeout(5)
    opened.append(listener)

    def connect_both() -> tuple[socket.socket, socket.socket]:
        client = dial(forwarder)
        hub, _ = listener.accept()
        hub.settimeout(5)
        opened.extend((client, hub))
        return client, hub

    yield connect_both
    for one in opened:
        one.close()


def dial(forwarder: Forwarder) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(forwarder.url.rpartition(":")[2])), timeout=5)


def read_all(source: socket.socket) -> bytes:
    return b"".join(iter(lambda: source.recv(65536), b""))


def test_bytes_pass_unchanged_in_both_directions(connect: Connect) -> None:
    client, hub = connect()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert hub.recv(100) == b"GET / HTTP/1.1\r\n\r\n"
    hub.sendall(b"\x00\xff answer")
    assert client.recv(100) == b"\x00\xff answer"


def test_one_side_may_end_while_the_other_still_speaks(connect: Connect) -> None:
    client, hub = connect()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(hub) == b"question"
    hub.sendall(b"answer")
    hub.close()
    assert read_all(client) == b"answer"


def test_a_side_that_reads_late_gets_all_of_it_and_holds_nobody_up(connect: Connect) -> None:
    client, hub = connect()
    content = bytes(range(256)) * 20_000
    sender = threading.Thread(target=lambda: (hub.sendall(content), hub.close()))
    sender.start()
    other_client, other_hub = connect()
    other_client.sendall(b"hi")
    assert other_hub.recv(10) == b"hi"
    assert read_all(client) == content
    sender.join()


def test_a_client_that_goes_away_is_seen_by_the_hub(connect: Connect) -> None:
    client, hub = connect()
    client.close()
    assert hub.recv(10) == b""


def test_with_no_hub_the_connection_is_closed(forwarder: Forwarder) -> None:
    with dial(forwarder) as client:
        assert client.recv(10) == b""


def test_a_port_that_is_taken_is_replaced_by_a_free_one(hub_directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made = Forwarder(str(hub_directory / "x"), port, Log(instance="", stream=io.StringIO()))
        assert int(made.url.rpartition(":")[2]) != port
        made.close()
