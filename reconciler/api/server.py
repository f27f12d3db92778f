"""Serving the operator plane on a unix socket, in a thread of its own, until the hub ends."""

import asyncio
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SOCKET = "api.sock"
START_S = 10.0


class PeerProtocol(HttpToolsProtocol):
    """Knows the caller by the socket's credentials: `uid:<uid>` and pid stand where an address would."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        peer: socket.socket = transport.get_extra_info("socket")
        packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _gid = struct.unpack("3i", packed)
        self.client = (f"uid:{uid}", pid)


class ApiServer:
    """One server; `start` returns when it listens."""

    def __init__(self, app: Starlette, run: Path) -> None:
        self.path = run / SOCKET
        config = uvicorn.Config(
            app, http=PeerProtocol, loop="asyncio", lifespan="off", log_config=None, access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="api", daemon=True)
        self._ready = threading.Event()

    def start(self) -> None:
        """Listen on the socket, which only this user may open. Raises OSError."""
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(self.path))
        finally:
            os.umask(before)
        self._socket.listen()
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests under way and close."""
        self._server.should_exit = True
        self._thread.join(START_S)
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))
