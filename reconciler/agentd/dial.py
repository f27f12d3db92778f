"""How the hub is reached: its unix socket, or TCP with TLS where there is none.

Addresses come in, connected sockets go out. Over TLS nothing is said before the hub has proven to
be ours.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
from typing import Any, Union

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class UnixDial:
    """By the instance's own socket."""

    def __init__(self, path: str) -> None:
        self.place = path

    def connect(self, timeout_s: float) -> socket.socket:
        """Raises OSError."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(timeout_s)
            link.connect(self.place)
        except OSError:
            link.close()
            raise
        return link

    def begin(self) -> tuple[socket.socket, int]:
        """A socket that does not block, and the events before `go_on` goes on; 0: bytes may pass.

        Raises OSError.
        """
        return self.connect(0), 0

    def go_on(self, link: socket.socket) -> int:
        """The events to wait for next, as `begin` says them. Raises OSError."""
        del link
        return 0


class TlsDial:
    """By TCP with TLS: the hub shows a certificate for this host, of the authority in `ca_file`."""

    def __init__(self, address: str, ca_file: str) -> None:
        """Raises ValueError for what is not `host:port`, OSError for a file without certificates."""
        self.place = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port) if port.isdecimal() else 0
        if not self._host or not 0 < self._port < 2**16:
            raise ValueError(f"{address!r} is not host:port")
        self._context = ssl.create_default_context(cafile=ca_file)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._answered: tuple[int, Any] | None = None

    def connect(self, timeout_s: float) -> ssl.SSLSocket:
        """Raises OSError."""
        raw = socket.create_connection((self._host, self._port), timeout_s)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._answered = (raw.family, raw.getpeername())
            return self._context.wrap_socket(raw, server_hostname=self._host)
        except OSError:
            raw.close()
            raise

    def begin(self) -> tuple[ssl.SSLSocket, int]:
        """As of `UnixDial`. It goes where `connect` last did, so that no name has to be looked up."""
        family, peer = self._answered or self._look_up()
        raw = socket.socket(family, socket.SOCK_STREAM)
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = self._context.wrap_socket(raw, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            _check(link.connect_ex(peer))
        except OSError:
            link.close()
            raise
        return link, selectors.EVENT_WRITE

    def go_on(self, link: socket.socket) -> int:
        """As of `UnixDial`."""
        assert isinstance(link, ssl.SSLSocket)
        _check(link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        try:
            link.do_handshake()
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        return 0

    def _look_up(self) -> tuple[int, Any]:
        family, _, _, _, peer = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
        return family, peer


Dial = Union[UnixDial, TlsDial]


def shut(link: socket.socket, how: int) -> None:
    """Shut the connection itself. An SSLSocket's own method forgets its keys, while others may read from it.

    Raises OSError.
    """
    socket.socket.shutdown(link, how)


def explain(error: OSError) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the hub's certificate is not to be trusted: {error.verify_message}"
    return error.strerror or str(error) or type(error).__name__


def _check(code: int) -> None:
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, os.strerror(code))
