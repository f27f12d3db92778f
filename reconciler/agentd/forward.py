"""The forwarder: pipes connections to a TCP port on 127.0.0.1 to a socket of the hub's, or to its TLS.

There is one for the router and one for the models, each with a port of its own: a client that
keeps a connection would send requests for both on it if they had the same. It adds nothing to the
bytes, not even the token: who connects must have its own. One thread moves all bytes; a side that
does not read holds up only its own connection.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket

from reconciler.agentd.dial import WOULD_BLOCK, Dial, explain, shut
from reconciler.agentd.log import Log

_MAX_PAIRS = 128
_BUFFER_BYTES = 64 * 1024


class Forwarder:
    """Listens from construction on.

    `run` is one thread's. `url` is the origin that clients are told.
    """

    def __init__(self, dial: Dial, port: int, log: Log) -> None:
        """A port that is taken is replaced by a free one.

        Raises OSError when there is none at all.
        """
        self._dial = dial
        self._log = log
        self._listener = _listen(port)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._pairs: set[_Pair] = set()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        """Pipe for ever."""
        while True:
            for key, events in self._selector.select():
                if key.data is None:
                    self._accept()
                elif key.data in self._pairs:
                    self._move(key.data, key.fd, events)

    def close(self) -> None:
        """Stop listening; for a forwarder whose `run` was not started."""
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            client, _address = self._listener.accept()
        except OSError as error:
            self._log.warning("a local connection was lost", error=str(error))
            return
        if len(self._pairs) >= _MAX_PAIRS:
            client.close()
            self._log.warning("too many local connections", limit=_MAX_PAIRS)
            return
        client.setblocking(False)
        try:
            pair = _Pair(client, self._dial)
        except OSError as error:
            self._log.warning("a local connection cannot reach the hub", error=explain(error))
            client.close()
            return
        self._pairs.add(pair)
        self._watch(pair)

    def _move(self, pair: _Pair, fd: int, events: int) -> None:
        try:
            pair.move(fd, events)
        except OSError as error:
            if not pair.is_open:
                self._log.warning("a local connection cannot reach the hub", error=explain(error))
            pair.is_done = True
        self._watch(pair)

    def _watch(self, pair: _Pair) -> None:
        """Wait for what the pair can do next; a pair that is done is closed."""
        for end in pair.ends:
            wanted = 0 if pair.is_done else pair.wanted(end)
            known = self._selector.get_map().get(end.fileno())
            if known is None and wanted:
                self._selector.register(end, wanted, pair)
            elif known is not None and not wanted:
                self._selector.unregister(end)
            elif known is not None and known.events != wanted:
                self._selector.modify(end, wanted, pair)
        if pair.is_done:
            self._pairs.discard(pair)
            pair.close()


class _Pair:
    """Two sockets and the bytes on their way between them, which wait until the hub's end is open."""

    def __init__(self, client: socket.socket, dial: Dial) -> None:
        """Raises OSError."""
        hub, self._opens_by = dial.begin()
        self._dial = dial
        self.ends = (client, hub)
        self.is_done = False
        self._waiting = {client: bytearray(), hub: bytearray()}
        self._has_read_all = {client: False, hub: False}
        self._is_shut = {client: False, hub: False}

    @property
    def is_open(self) -> bool:
        return not self._opens_by

    def wanted(self, end: socket.socket) -> int:
        if not self.is_open and end is self.ends[1]:
            return self._opens_by
        events = 0
        if not self._has_read_all[end] and len(self._waiting[self._other(end)]) < _BUFFER_BYTES:
            events |= selectors.EVENT_READ
        if self._waiting[end]:
            events |= selectors.EVENT_WRITE
        return events

    def move(self, fd: int, events: int) -> None:
        """Do what the events allow. Raises OSError when one side is gone."""
        end = next(e for e in self.ends if e.fileno() == fd)
        if not self.is_open and end is self.ends[1]:
            self._opens_by, events = self._dial.go_on(end), selectors.EVENT_WRITE
        with contextlib.suppress(*WOULD_BLOCK):
            if events & selectors.EVENT_WRITE:
                self._write(end)
            if events & selectors.EVENT_READ:
                self._read(end)
        for one in self.ends if self.is_open else ():
            if self._has_read_all[self._other(one)] and not self._waiting[one] and not self._is_shut[one]:
                shut(one, socket.SHUT_WR)
                self._is_shut[one] = True
        self.is_done = all(self._is_shut.values())

    def close(self) -> None:
        for end in self.ends:
            end.close()

    def _read(self, end: socket.socket) -> None:
        chunk = end.recv(_BUFFER_BYTES)
        if not chunk:
            self._has_read_all[end] = True
            return
        other = self._other(end)
        self._waiting[other] += chunk
        with contextlib.suppress(*WOULD_BLOCK):
            self._write(other)

    def _write(self, end: socket.socket) -> None:
        waiting = self._waiting[end]
        if waiting and self.is_open:
            del waiting[: end.send(waiting)]

    def _other(self, end: socket.socket) -> socket.socket:
        return self.ends[1] if end is self.ends[0] else self.ends[0]


def _listen(port: int) -> socket.socket:
    try:
        return _bind(port)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        return _bind(0)


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
