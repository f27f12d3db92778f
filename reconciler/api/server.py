"""Listeners of the operator plane: the unix socket, whose peers are known, and the port for those with a token."""

import asyncio
import logging
import os
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reconciler.errors import UsageError
from reconciler.settings import OperatorHttp

SOCKET = "api.sock"
START_S = 10.0
MAX_CONNECTIONS = 256
MAX_HEAD = 64 * 1024
HEAD_S = 20.0
LINGER_S = 30.0
RENEW_S = 30
GRACE_S = 5
LINE = "reconciler.line"
"""Under this name an application finds the connection that a request came in on, among the scope's extensions."""
_LOG = logging.getLogger("reconciler.api")


class Line(HttpToolsProtocol):
    """A connection that says when the server ends, and can be ended with a last word that does not wait."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.ending = asyncio.Event()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {LINE: {LINE: self}}

    def end(self, last: bytes) -> None:
        """Write the last chunk of a body that is under way, though the reader is slow; it has `LINGER_S` to read."""
        if self.transport.is_closing():
            return
        self.cycle.disconnected = True
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if self.cycle.chunked_encoding else last)
        self.transport.close()
        self.loop.call_later(LINGER_S, self.transport.abort)

    def shutdown(self) -> None:
        self.ending.set()
        super().shutdown()


class PeerLine(Line):
    """Knows the caller by the socket's credentials: `uid:<uid>` and pid stand where an address would."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        peer: socket.socket = transport.get_extra_info("socket")
        packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _gid = struct.unpack("3i", packed)
        self.client = (f"uid:{uid}", pid)


class PortLine(Line):
    """Anybody may connect: there are only so many, and the head of a request has its time and its length."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self.transport.abort()
                return
            self._await_head()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._forget_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_head()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Served:
    """An application in a thread of its own. `tick` is called every `RENEW_S`."""

    def __init__(
        self,
        app: Starlette,
        protocol: type[asyncio.Protocol],
        name: str,
        *,
        context: ssl.SSLContext | None = None,
        tick: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=protocol,
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            callback_notify=tick,
            timeout_notify=RENEW_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        config.load()
        config.ssl = context
        self._server = uvicorn.Server(config)
        self._name = name
        self._thread: threading.Thread | None = None

    def start(self, listening: socket.socket) -> None:
        self._thread = threading.Thread(target=self._serve, args=(listening,), name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests under way and close."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(START_S)

    def _serve(self, listening: socket.socket) -> None:
        asyncio.run(self._server.serve(sockets=[listening]))


class ApiServer:
    """The socket in a fleet's run-time directory; `start` returns when it listens."""

    def __init__(self, app: Starlette, run: Path) -> None:
        self.path = run / SOCKET
        self._served = Served(app, PeerLine, "api")

    def start(self) -> None:
        """Listen on the socket, which only this user may open. Raises OSError."""
        self.path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listening.bind(str(self.path))
        finally:
            os.umask(before)
        listening.listen()
        self._served.start(listening)

    def stop(self) -> None:
        """Finish the requests under way and close."""
        self._served.stop()
        self.path.unlink(missing_ok=True)


class PortServer:
    """The port of `api.http`; a certificate that is replaced counts within half a minute."""

    def __init__(self, app: Starlette, settings: OperatorHttp) -> None:
        self._settings = settings
        self._context = _open_context(settings)
        self._seen = self._stamps()
        self._served = Served(app, PortLine, "api-port", context=self._context, tick=self._renew)

    def start(self) -> None:
        """Raises UsageError where the address cannot be listened on."""
        self._served.start(listen_at(self._settings.listens_at.host, self._settings.listens_at.port, "api.http"))

    def stop(self) -> None:
        """Finish the requests under way and close."""
        self._served.stop()

    async def _renew(self) -> None:
        """Take a certificate that was replaced; one that does not do leaves the last good one in force."""
        stamps = self._stamps()
        if self._context is None or stamps == self._seen:
            return
        self._seen = stamps
        try:
            _load_certificate(self._context, self._settings)
        except UsageError as exc:
            _LOG.error("%s; the one before goes on", exc)

    def _stamps(self) -> tuple[object, ...]:
        """What changes when a file is replaced."""
        files = (self._settings.certificate_file, self._settings.key_file)
        found = (os.stat(file) if file is not None and os.path.exists(file) else None for file in files)
        return tuple((s.st_ino, s.st_mtime_ns, s.st_size) if s is not None else None for s in found)


def listen_at(host: str, port: int, what: str) -> socket.socket:
    """A listening socket. Raises UsageError that names the setting, `what`."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as exc:
        listening.close()
        raise UsageError(f"{what} cannot listen on {host}:{port}: {exc.strerror}; write another address") from exc
    listening.listen()
    return listening


def _open_context(settings: OperatorHttp) -> ssl.SSLContext | None:
    if settings.certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings)
    return context


def _load_certificate(context: ssl.SSLContext, settings: OperatorHttp) -> None:
    """Raises UsageError. A key with a passphrase is refused: nobody is there to type it."""
    assert settings.certificate_file is not None

    def no_passphrase() -> str:
        raise ValueError("the key has a passphrase")

    try:
        context.load_cert_chain(settings.certificate_file, settings.key_file, password=no_passphrase)
    except (OSError, ValueError) as exc:
        files = f"{settings.certificate_file} and {settings.key_file}"
        why = "they do not fit together, or are not PEM" if isinstance(exc, ssl.SSLError) else str(exc)
        raise UsageError(f"api.http cannot use {files}: {why}; write a certificate chain and its key, in PEM") from exc
