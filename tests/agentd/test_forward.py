from __future__ import annotations

import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.agentd.dial import Dial, TlsDial, UnixDial
from reconciler.agentd.forward import Forwarder
from reconciler.agentd.log import Log

from .tls import TlsListener

Connect = Callable[[], tuple[socket.socket, socket.socket]]


class UnixListener:
    """As `TlsListener`, on a unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(60)

    def accept(self) -> socket.socket:
        link, _ = self._socket.accept()
        link.settimeout(60)
        return link

    def close(self) -> None:
        self._socket.close()


def start(way: Dial, stream: io.StringIO) -> Forwarder:
    made = Forwarder(way, 0, Log(instance="demo-0", stream=stream))
    threading.Thread(target=made.run, daemon=True).start()
    return made


@pytest.fixture(params=["unix", "tls"])
def hub_end(request: pytest.FixtureRequest, hub_directory: Path) -> Iterator[tuple[UnixListener | TlsListener, Dial]]:
    """Where the hub listens, and the way to it."""
    path = hub_directory / "pipe.sock"
    listener = UnixListener(path) if request.param == "unix" else TlsListener(hub_directory)
    yield (
        listener,
        TlsDial(listener.address, listener.ca_file) if isinstance(listener, TlsListener) else UnixDial(str(path)),
    )
    listener.close()


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def forwarder(hub_end: tuple[UnixListener | TlsListener, Dial], log: io.StringIO) -> Forwarder:
    return start(hub_end[1], log)


@pytest.fixture
def connect(forwarder: Forwarder, hub_end: tuple[UnixListener | TlsListener, Dial]) -> Iterator[Connect]:
    """Both ends of a new connection: the client's and the hub's."""
    opened: list[socket.socket] = []

    def connect_both() -> tuple[socket.socket, socket.socket]:
        opened.append(dial(forwarder))
        opened.append(hub_end[0].accept())
        return opened[-2], opened[-1]

    yield connect_both
    for one in opened:
        one.close()


def dial(forwarder: Forwarder) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(forwarder.url.rpartition(":")[2])), timeout=60)


def read_all(source: socket.socket) -> bytes:
    return b"".join(iter(lambda: source.recv(65536), b""))


def test_bytes_pass_unchanged_in_both_directions(connect: Connect) -> None:
    client, hub = connect()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert hub.recv(100) == b"GET / HTTP/1.1\r\n\r\n"
    hub.sendall(b"\x00\xff answer")
    assert client.recv(100) == b"\x00\xff answer"


@pytest.mark.parametrize("hub_end", ["unix"], indirect=True)
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

    def send() -> None:
        hub.sendall(content)
        hub.close()

    sender = threading.Thread(target=send)
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


def test_what_a_client_sends_at_once_waits_until_the_hubs_end_is_open(
    forwarder: Forwarder, hub_end: tuple[UnixListener | TlsListener, Dial]
) -> None:
    with dial(forwarder) as client:
        client.sendall(b"question")
        with hub_end[0].accept() as hub:
            assert hub.recv(100) == b"question"
            hub.sendall(b"answer")
        assert read_all(client) == b"answer"


def test_with_no_hub_the_connection_is_closed(
    forwarder: Forwarder, hub_end: tuple[UnixListener | TlsListener, Dial], log: io.StringIO
) -> None:
    hub_end[0].close()
    with dial(forwarder) as client:
        assert client.recv(10) == b""
    assert "cannot reach the hub" in log.getvalue()


def test_to_a_hub_that_is_not_ours_nothing_passes(hub_directory: Path, tmp_path: Path, log: io.StringIO) -> None:
    listener, other = TlsListener(hub_directory), TlsListener(tmp_path)
    with dial(start(TlsDial(listener.address, other.ca_file), log)) as client:
        client.sendall(b"Authorization: Bearer secret")
        with pytest.raises(ssl.SSLError):
            listener.accept()
        assert client.recv(10) == b""
    assert "the hub's certificate is not to be trusted" in log.getvalue()
    listener.close()
    other.close()


def test_a_hub_that_does_not_shake_hands_holds_up_only_its_own_connection(tmp_path: Path, log: io.StringIO) -> None:
    listener = TlsListener(tmp_path)
    forwarder = start(TlsDial(listener.address, listener.ca_file), log)
    with dial(forwarder) as stuck, dial(forwarder) as client:
        stuck.sendall(b"first")
        with listener.accept_raw() as silent, listener.accept() as hub:
            client.sendall(b"second")
            assert hub.recv(10) == b"second"
            with listener.shake_hands(silent) as late:
                assert late.recv(10) == b"first"
    listener.close()


def test_a_port_that_is_taken_is_replaced_by_a_free_one(hub_directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made = Forwarder(UnixDial(str(hub_directory / "x")), port, Log(instance="", stream=io.StringIO()))
        assert int(made.url.rpartition(":")[2]) != port
        made.close()
