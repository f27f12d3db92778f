"""A unix socket and its connections: uvicorn's HTTP protocol on a socket that this module makes, owns and removes.

Each connection is a `Line`, which knows the door it came in by and wakes whoever waits on it when it is lost.
"""

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from uvicorn.config import Config as HttpConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_PATH_BYTES = 107
_BACKLOG = 256
_MAX_HEAD_BYTES = 64 * 1024
_CLOSING_S = 2.0


class Line(HttpToolsProtocol):
    """One connection. One past the door's bound is closed at once; so is one with endless headers."""

    def __init__(self, door: "Door", config: HttpConfig) -> None:
        super().__init__(config, door.state, {"line": self}, _loop=door.loop)
        self.door = door
        self.is_lost = False
        self._is_in_head = False
        self._head_bytes = 0
        self._waiter: asyncio.Future[Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.door.max_lines or self.door.is_closed:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        super().connection_lost(exc)
        self.app_state = {}

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.drop()

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def drop(self) -> None:
        """Close without waiting for what is still to be written."""
        self.transport.abort()

    async def wait(self, waiter: "asyncio.Future[Any]", timeout_s: float) -> None:
        """Until `waiter` has a result: None after the time-out, or when the connection is lost."""
        if self.is_lost:
            _give_up(waiter)
            return
        self._waiter = waiter
        timer = self.loop.call_later(timeout_s, _give_up, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None


class Door:
    """One listening socket. `subject` is what its lines are about."""

    def __init__(self, path: Path, config: HttpConfig, subject: Any = None, *, max_lines: int) -> None:
        self.path = path
        self.subject = subject
        self.max_lines = max_lines
        self.is_closed = False
        self.loop = asyncio.get_running_loop()
        self.state = ServerState()
        self._config = config
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it listens, and its path is still what it bound."""
        return not self.is_closed and self._inode is not None and _identify(self.path) == self._inode

    async def open(self, uid: int | None) -> None:
        """Bind, mode 0600, owned by `uid` (None: by us). Raises OSError, ValueError for a path that is too long."""
        listening = bind_socket(self.path, uid)
        try:
            self._server = await self.loop.create_unix_server(self._make_line, sock=listening, backlog=_BACKLOG)
        except OSError:
            listening.close()
            raise
        self._inode = _identify(self.path)

    def close(self) -> None:
        """Take no more connections, close the idle ones, and the busy ones after their answer."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._server is not None:
            self._server.close()
        if self._inode is not None and _identify(self.path) == self._inode:
            self.path.unlink()
        for line in list(self.state.connections):
            line.shutdown()

    async def finish(self, timeout_s: float = _CLOSING_S) -> None:
        """Wait until running requests are answered; what takes longer is cancelled, and all lines are dropped."""
        if self.state.tasks:
            _, late = await asyncio.wait(self.state.tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1)
        for line in list(self.state.connections):
            line.transport.close()
        await asyncio.sleep(0)

    def _make_line(self) -> Line:
        return Line(self, self._config)


def bind_socket(path: Path, uid: int | None) -> socket.socket:
    """A unix socket bound to `path`, in place of what stood there."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(
            f"the socket path {path} has {len(os.fsencode(path))} bytes, and a unix socket at most "
            f"{MAX_PATH_BYTES}; use a shorter run directory"
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listening.bind(str(path))
        path.chmod(0o600)
        if uid is not None and os.geteuid() == 0:
            os.chown(path, uid, uid)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def make_http_config(app: Any) -> HttpConfig:
    """uvicorn's settings, of which the protocol class reads only these."""
    config = HttpConfig(
        app,
        interface="asgi3",
        http=Line,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
    )
    config.load()
    return config


def _give_up(waiter: "asyncio.Future[Any]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
