"""Reaching the hub by TLS: whom agentd trusts, and what it says where it does not."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.agentd.dial import Dial, TlsDial, UnixDial, explain, shut
from reconciler.agentd.hub import Hub, HubGoneError

from .tls import TlsListener


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[TlsListener]:
    made = TlsListener(tmp_path)
    yield made
    made.close()


@contextlib.contextmanager
def serving(listener: TlsListener, count: int = 1) -> Iterator[list[bytes]]:
    """Answers connections with what it read; a list of that, with nothing where the handshake failed."""
    read: list[bytes] = []

    def serve() -> None:
        for _ in range(count):
            try:
                with listener.accept() as link:
                    read.append(link.recv(100))
                    link.sendall(read[-1])
            except OSError:
                read.append(b"")

    thread = threading.Thread(target=serve)
    thread.start()
    yield read
    thread.join()


def test_a_hub_of_the_right_authority_and_name_is_spoken_with(listener: TlsListener) -> None:
    dial = TlsDial(listener.address, listener.ca_file)
    with serving(listener) as read, dial.connect(60) as link:
        assert link.version() == "TLSv1.3"
        link.sendall(b"hello")
        assert link.recv(100) == b"hello"
    assert read == [b"hello"]
    assert dial.place == listener.address


def test_a_hub_of_another_authority_is_told_nothing(listener: TlsListener, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = TlsListener(tmp_path / "other")
    other.close()
    dial = TlsDial(listener.address, other.ca_file)
    (tmp_path / "token").write_text("secret")
    with serving(listener) as read, pytest.raises(HubGoneError) as gone:
        Hub(dial, str(tmp_path / "token")).connect()
    assert read == [b""]
    place = f"connecting to {listener.address}: the hub's certificate is not to be trusted: "
    assert str(gone.value).startswith(place)


def test_a_certificate_for_another_host_is_not_enough(tmp_path: Path) -> None:
    listener = TlsListener(tmp_path, "hub.test", "127.0.0.9")
    with serving(listener) as read, pytest.raises(ssl.SSLCertVerificationError) as refused:
        TlsDial(listener.address, listener.ca_file).connect(60)
    assert read == [b""]
    assert "127.0.0.1" in explain(refused.value)
    listener.close()


def test_a_hub_that_does_not_speak_tls_is_an_outage(listener: TlsListener) -> None:
    def answer_plainly() -> None:
        with listener.accept_raw() as link:
            link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            link.recv(1000)

    thread = threading.Thread(target=answer_plainly)
    thread.start()
    with pytest.raises(ssl.SSLError):
        TlsDial(listener.address, listener.ca_file).connect(60)
    thread.join()


def test_a_hub_that_says_nothing_is_given_up(listener: TlsListener) -> None:
    with pytest.raises(TimeoutError):
        TlsDial(listener.address, listener.ca_file).connect(0.1)
    listener.accept_raw().close()


def test_nobody_there_is_an_outage_whichever_way(tmp_path: Path, listener: TlsListener) -> None:
    listener.close()
    dials: list[Dial] = [UnixDial(str(tmp_path / "no.sock")), TlsDial(listener.address, listener.ca_file)]
    for dial in dials:
        with pytest.raises(OSError, match=r"refused|No such file") as gone:
            dial.connect(60)
        assert explain(gone.value) in ("Connection refused", "No such file or directory")


def test_a_connection_that_does_not_block_goes_on_step_by_step(listener: TlsListener) -> None:
    dial = TlsDial(listener.address, listener.ca_file)
    with serving(listener):
        link, wanted = dial.begin()
        with link:
            while wanted:
                _wait(link, wanted)
                wanted = dial.go_on(link)
            link.setblocking(True)
            link.sendall(b"x")
            assert link.recv(10) == b"x"


def test_one_that_does_not_block_is_verified_as_well(tmp_path: Path) -> None:
    listener = TlsListener(tmp_path, "hub.test")
    dial = TlsDial(listener.address, listener.ca_file)
    with serving(listener) as read:
        link, wanted = dial.begin()
        with link, pytest.raises(ssl.SSLCertVerificationError):
            while wanted:
                _wait(link, wanted)
                wanted = dial.go_on(link)
    assert read == [b""]
    listener.close()


def test_one_that_is_refused_says_so_when_it_goes_on(listener: TlsListener) -> None:
    listener.close()
    dial = TlsDial(listener.address, listener.ca_file)
    link, wanted = dial.begin()
    with link, pytest.raises(ConnectionRefusedError):
        _wait(link, wanted)
        dial.go_on(link)


def test_shutting_it_wakes_who_reads_in_another_thread(listener: TlsListener) -> None:
    woken: list[bytes | OSError] = []

    def read(link: socket.socket) -> None:
        try:
            woken.append(link.recv(10))
        except OSError as error:
            woken.append(error)

    with serving(listener), TlsDial(listener.address, listener.ca_file).connect(60) as link:
        thread = threading.Thread(target=read, args=(link,))
        thread.start()
        shut(link, socket.SHUT_RDWR)
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert len(woken) == 1


@pytest.mark.parametrize("address", ["", "hub", ":1", "hub:", "hub:x", "hub:0", "hub:70000"])
def test_an_address_that_is_none_is_refused(listener: TlsListener, address: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        TlsDial(address, listener.ca_file)


def _wait(link: socket.socket, events: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(link, events)
        assert selector.select(60)
