"""A TLS server of tests: its authority and certificate in files, and a listening socket that hands out connections."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from reconciler.identity.authority import open_authority


class TlsListener:
    """Listens on 127.0.0.1 with a certificate for `names`. `accept` shakes hands."""

    def __init__(self, folder: Path, *names: str) -> None:
        now = datetime.now(UTC)
        authority = open_authority(folder, "f", now)
        self.ca_file = str(folder / "tls" / "ca.crt")
        (folder / "server.pem").write_bytes(authority.issue(names or ("127.0.0.1",), now))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(60)
        self.port: int = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def accept_raw(self) -> socket.socket:
        """A connection before its handshake."""
        link, _ = self._socket.accept()
        link.settimeout(60)
        return link

    def accept(self) -> socket.socket:
        """Raises OSError where the client does not trust us."""
        return self.shake_hands(self.accept_raw())

    def shake_hands(self, link: socket.socket) -> socket.socket:
        return self._context.wrap_socket(link, server_side=True)

    def close(self) -> None:
        self._socket.close()
