"""A TCP port with TLS, and its connections. They are strangers until they move to the door of an instance.

Of strangers there are few, in all and from each address, counted before anything is spent on them; a handshake has its
time, and so has the first request.
"""

import asyncio
import ipaddress
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from reconciler.router.line import HttpConfig, Line
from reconciler.router.listener import BACKLOG, CLOSING_S, Door

MAX_STRANGERS: Final = 256
MAX_PER_SOURCE: Final = 32
HANDSHAKE_S: Final = 10.0
_GOODBYE_S: Final = 5.0
_ACCEPT_AGAIN_S: Final = 1.0
_SITE_BITS: Final = 64

_LOG = logging.getLogger("reconciler.router.tls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A server's certificate in use, and when another one is due."""

    context: ssl.SSLContext
    made_at: datetime
    due_at: datetime

    def is_fresh(self, now: datetime) -> bool:
        """False also where the clock was set back, for then it may be valid only later."""
        return self.made_at <= now < self.due_at


class TlsPort(Door):
    """A port on an address of this host. `context` is what handshakes begin with; it may be changed at any time."""

    def __init__(self, config: HttpConfig, context: ssl.SSLContext, *, handshake_s: float = HANDSHAKE_S) -> None:
        super().__init__(None, config, max_lines=MAX_STRANGERS)
        self.context = context
        self._handshake_s = handshake_s
        self._source_by_line: dict[TlsLine, str] = {}
        self._lines_by_source: Counter[str] = Counter()
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def strangers(self) -> int:
        """How many there are, those included that still shake hands."""
        return len(self._source_by_line)

    def listen(self, host: str, port: int) -> None:
        """Raises OSError."""
        is_v6 = ":" in host
        self._listening = socket.create_server(
            (host, port),
            family=socket.AF_INET6 if is_v6 else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
        self._listening.setblocking(False)
        self._start(self._accept(self._listening))

    def close(self) -> None:
        """As any door's; handshakes are broken off."""
        super().close()
        for task in self._tasks:
            task.cancel()
        if self._listening is not None:
            self._listening.close()

    async def finish(self, timeout_s: float = CLOSING_S) -> None:
        """As any door's."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await super().finish(timeout_s)

    def forget(self, line: "TlsLine") -> None:
        """It is gone, or no stranger any more."""
        source = self._source_by_line.pop(line, None)
        if source is not None:
            self._lines_by_source[source] -= 1
            if not self._lines_by_source[source]:
                del self._lines_by_source[source]

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                link, address = await self.loop.sock_accept(listening)
            except OSError as error:
                _LOG.error("taking a connection: %s", error)
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            line = self._receive(address[0])
            if line is None:
                link.close()
            else:
                self._start(self._shake_hands(line, link))
            await asyncio.sleep(0)

    def _receive(self, host: str) -> "TlsLine | None":
        """A line for who comes from there; None where there are too many."""
        source = source_of(host)
        if self.strangers >= MAX_STRANGERS or self._lines_by_source[source] >= MAX_PER_SOURCE:
            return None
        line = TlsLine(self, self._config)
        self._source_by_line[line] = source
        self._lines_by_source[source] += 1
        return line

    async def _shake_hands(self, line: "TlsLine", link: socket.socket) -> None:
        """What goes wrong is the caller's to notice."""
        try:
            await self.loop.connect_accepted_socket(
                lambda: line,
                link,
                ssl=self.context,
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError as error:
            _LOG.debug("handshake: %s", error)
        finally:
            if line.transport is None:
                self.forget(line)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class TlsLine(Line):
    """One connection."""

    def __init__(self, port: TlsPort, config: HttpConfig) -> None:
        super().__init__(port, config)
        self._port = port

    @property
    def is_stranger(self) -> bool:
        return self.door is self._port

    def move_to(self, door: Door) -> bool:
        """Be one of that door's lines from now on, with the request that is under way; False where it has no room."""
        if door.is_closed or len(door.state.connections) >= door.max_lines:
            return False
        task = asyncio.current_task(self.loop)
        if task in self.tasks:
            self.tasks.discard(task)
            door.state.tasks.add(task)
            task.add_done_callback(door.state.tasks.discard)
        self._port.forget(self)
        self.connections.discard(self)
        self.door, self.server_state = door, door.state
        self.connections, self.tasks = door.state.connections, door.state.tasks
        self.connections.add(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.forget(self)
        super().connection_lost(exc)


def make_context(pem: bytes) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the key and certificate in `pem`, which stays in memory. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    descriptor = os.memfd_create("certificate")
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context


def source_of(host: str) -> str:
    """What connections are counted by: an IPv4 address, or the prefix of a site."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _SITE_BITS), strict=False))
