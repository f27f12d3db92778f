"""The port by itself: how many strangers it bears, for how long, and how its certificate is renewed."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509

from reconciler.identity.authority import LIFE, open_authority
from reconciler.router.config import TlsEntry
from reconciler.router.gate import TlsGate
from reconciler.router.listener import Door, make_http_config
from reconciler.router.rim import Receive, Scope, Send
from reconciler.router.tls import HANDSHAKE_S, MAX_PER_SOURCE, MAX_STRANGERS, TlsLine, TlsPort, make_context, source_of
from tests.router.fleet import free_port

HOUR = timedelta(hours=1)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def client_context() -> ssl.SSLContext:
    """Of a client that looks at certificates, and takes any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def with_port(folder: Path, test: Callable[[TlsPort, int], Awaitable[None]], **limits: float) -> None:
    """Run a test on an open port."""

    async def main() -> None:
        now = datetime.now(UTC)
        context = make_context(open_authority(folder, "f", now).issue(["127.0.0.1"], now))
        port, number = TlsPort(make_http_config(app), context, **limits), free_port()
        port.listen("127.0.0.1", number)
        try:
            await test(port, number)
        finally:
            port.close()
            await port.finish()
        await until(lambda: not port.state.connections)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def is_ended(number: int, source: str, within_s: float = HANDSHAKE_S / 2) -> bool:
    """Whether a connection from there is closed before anything is sent, and before its handshake is due."""
    reader, writer = await asyncio.open_connection("127.0.0.1", number, local_addr=(source, 0))
    try:
        async with asyncio.timeout(within_s):
            return await reader.read(1) == b""
    except (ConnectionResetError, TimeoutError) as error:
        return not isinstance(error, TimeoutError)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:9::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_connections_are_counted_by_address_or_by_site(host: str, source: str) -> None:
    assert source_of(host) == source


def test_strangers_are_bounded_for_each_source_and_in_all(tmp_path: Path) -> None:
    async def test(port: TlsPort, number: int) -> None:
        links: list[socket.socket] = []
        loop = asyncio.get_running_loop()

        async def dial(source: str, count: int) -> None:
            for _ in range(count):
                link = socket.socket()
                links.append(link)
                link.setblocking(False)
                link.bind((source, 0))
                await loop.sock_connect(link, ("127.0.0.1", number))

        try:
            await dial("127.0.0.2", MAX_PER_SOURCE)
            await until(lambda: port.strangers == MAX_PER_SOURCE)
            assert await is_ended(number, "127.0.0.2")
            assert not await is_ended(number, "127.0.0.3", 0.5)
            for n in range(1, MAX_STRANGERS // MAX_PER_SOURCE):
                await dial(f"127.0.1.{n}", MAX_PER_SOURCE)
            await until(lambda: port.strangers == MAX_STRANGERS)
            assert await is_ended(number, "127.0.0.3")
        finally:
            for link in links:
                link.close()
        await until(lambda: port.strangers == 0)
        assert not await is_ended(number, "127.0.0.2", 0.5)

    with_port(tmp_path, test)


def test_a_handshake_has_its_time(tmp_path: Path) -> None:
    async def test(port: TlsPort, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"\x16\x03\x01")
        await until(lambda: port.strangers == 1)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await until(lambda: port.strangers == 0)
        writer.close()

    with_port(tmp_path, test, handshake_s=0.2)


def test_who_shakes_hands_and_says_nothing_is_dropped(tmp_path: Path) -> None:
    async def test(port: TlsPort, number: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", number, ssl=client_context())
        await until(lambda: len(port.state.connections) == 1)
        port.drop_slow(port.loop.time() + 10)
        assert port.strangers == 1
        port.drop_slow(port.loop.time() + 60)
        await until(lambda: port.strangers == 0)
        writer.transport.abort()

    with_port(tmp_path, test)


def test_a_line_that_moved_is_counted_there_and_ends_with_its_new_door(tmp_path: Path) -> None:
    async def test(port: TlsPort, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number, ssl=client_context())
        await until(lambda: len(port.state.connections) == 1)
        line = next(iter(port.state.connections))
        assert isinstance(line, TlsLine)
        door = Door(None, make_http_config(app), "an instance", max_lines=1)
        assert line.move_to(door)
        assert not line.is_stranger
        assert (port.strangers, len(port.state.connections), door.state.connections) == (0, 0, {line})
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")

        _, other_writer = await asyncio.open_connection("127.0.0.1", number, ssl=client_context())
        await until(lambda: len(port.state.connections) == 1)
        other = next(iter(port.state.connections))
        assert isinstance(other, TlsLine)
        assert not other.move_to(door)
        assert other.is_stranger

        door.close()
        await door.finish()
        await until(lambda: not door.state.connections)
        assert not other.move_to(door)
        for one in (writer, other_writer):
            one.transport.abort()

    with_port(tmp_path, test)


def test_certificates_are_renewed_in_time_without_a_connection_or_the_port_being_lost(tmp_path: Path) -> None:
    """Also where the clock was set back: the old one might only be valid later."""

    async def main() -> None:
        gate = TlsGate(
            data=tmp_path,
            fleet="f",
            route=cast(Any, None),
            plane=cast(Any, None),
            find_door=lambda _digest: None,
            on_change=lambda: None,
        )
        number = free_port()

        async def look() -> x509.Certificate:
            _, writer = await asyncio.open_connection("127.0.0.1", number, ssl=client_context())
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
            return x509.load_der_x509_certificate(der)

        now = datetime.now(UTC)
        await gate.apply(TlsEntry(host="127.0.0.1", port=number, names=("127.0.0.1",)))
        reader, writer = await asyncio.open_connection("127.0.0.1", number, ssl=client_context())
        first = await look()
        gate.tick(now + HOUR)
        assert await look() == first
        gate.tick(now + LIFE / 2 + HOUR)
        second = await look()
        assert second != first
        assert second.not_valid_before_utc < first.not_valid_after_utc < second.not_valid_after_utc
        gate.tick(now + HOUR)
        assert (await look()).not_valid_before_utc < now + HOUR
        assert not reader.at_eof()
        assert gate.fault == ""
        writer.transport.abort()
        await gate.close()

    asyncio.run(main())


def test_while_no_new_certificate_can_be_made_the_old_one_serves(tmp_path: Path) -> None:
    async def main() -> None:
        changes: list[str] = []
        gate = TlsGate(
            data=tmp_path,
            fleet="f",
            route=cast(Any, None),
            plane=cast(Any, None),
            find_door=lambda _digest: None,
            on_change=lambda: changes.append(gate.fault),
        )
        number, now = free_port(), datetime.now(UTC)
        await gate.apply(TlsEntry(host="127.0.0.1", port=number, names=("127.0.0.1",)))
        kept = (tmp_path / "tls" / "ca.pem").read_bytes()
        (tmp_path / "tls" / "ca.pem").write_bytes(b"damaged")
        gate.tick(now + LIFE / 2 + HOUR)
        assert "certificate authority" in gate.fault
        _, writer = await asyncio.open_connection("127.0.0.1", number, ssl=client_context())
        writer.transport.abort()
        (tmp_path / "tls" / "ca.pem").write_bytes(kept)
        gate.tick(now + LIFE / 2 + HOUR)
        assert gate.fault == ""
        assert [bool(fault) for fault in changes] == [True, False]
        await gate.close()

    asyncio.run(main())
