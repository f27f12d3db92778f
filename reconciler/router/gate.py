"""The way in for instances without a unix socket: a TCP port with TLS, where the operator has the router listen.

A connection shows the token of an instance that is to come in here, and moves to that instance's door; all that holds
for a socket holds for it then. A wrong token ends it. The certificate is made by the fleet's own authority, is only
ever in memory, and is made anew long before it runs out.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from reconciler.errors import StoreError
from reconciler.router import identity
from reconciler.router.answer import Answer, Header
from reconciler.router.asgi import AgentPlane
from reconciler.router.config import TlsEntry
from reconciler.router.line import Line
from reconciler.router.listener import Door, make_http_config
from reconciler.router.message import Deny
from reconciler.router.pipeline import Route
from reconciler.router.rim import Receive, Scope, Send, serve
from reconciler.router.tls import Certificate, TlsLine, TlsPort, make_context
from reconciler.router.verdict import refused

STRANGER: Final = "(tls)"
"""Stands in the log for who showed no token of ours."""

_LOG = logging.getLogger("reconciler.router.gate")


class TlsGate:
    """The port, and the application behind it. `fault` says what is wrong with it; empty where nothing is.

    `find_door` knows the door of the instance whose token has a digest. `on_change` is called when `fault` changes.
    """

    def __init__(
        self,
        *,
        data: Path,
        fleet: str,
        route: Route,
        plane: AgentPlane,
        find_door: Callable[[bytes], Door | None],
        on_change: Callable[[], None],
    ) -> None:
        self.fault = ""
        self._data = data
        self._fleet = fleet
        self._route = route
        self._plane = plane
        self._find_door = find_door
        self._on_change = on_change
        self._entry: TlsEntry | None = None
        self._port: TlsPort | None = None
        self._certificate: Certificate | None = None

    async def apply(self, entry: TlsEntry | None) -> None:
        """Listen where `entry` says; nowhere without. Connections that belong to instances stay."""
        if entry == self._entry and not self.fault:
            return
        before, self._entry, self._certificate = self._entry, entry, None
        if before is None or entry is None or (before.host, before.port) != (entry.host, entry.port):
            await self.close()
        self.tick(datetime.now(UTC))

    def tick(self, now: datetime) -> None:
        """Once per second: strangers that are slow, a certificate that gets old, a port that was taken."""
        if self._port is not None:
            self._port.drop_slow(self._port.loop.time())
        fault = ""
        if self._entry is not None:
            try:
                self._listen(self._entry, now)
            except (OSError, StoreError, ValueError) as error:
                fault = f"tls: {self._entry.host} port {self._entry.port}: {error}"
        if fault != self.fault:
            self.fault = fault
            _LOG.warning("%s", fault or "tls: all is well again")
            self._on_change()

    async def close(self) -> None:
        """Stop listening, and drop all strangers."""
        port, self._port = self._port, None
        if port is not None:
            port.close()
            await port.finish()

    def answer_plain(
        self, line: Line, method: bytes, url: bytes, headers: Sequence[Header], body: bytes
    ) -> Coroutine[Any, None, Answer]:
        """The agent plane's answer, once the line is an instance's."""
        denied = self._admit(line, headers)
        if denied is None:
            return self._plane.answer_plain(line, method, url, headers, body)
        return self._turn_away(line, denied)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        denied = self._admit(scope["state"]["line"], scope["headers"])
        if denied is None:
            await self._plane(scope, receive, send)
        else:
            await serve(lambda call: self._turn_away(call.line, denied), scope, receive, send)

    def _listen(self, entry: TlsEntry, now: datetime) -> None:
        """Raises OSError, StoreError, ValueError."""
        if self._certificate is None or not self._certificate.is_fresh(now):
            self._certificate = self._certify(entry, now)
        if self._port is None:
            port = TlsPort(make_http_config(self, self.answer_plain), self._certificate.context)
            port.listen(entry.host, entry.port)
            self._port = port
        self._port.context = self._certificate.context

    def _certify(self, entry: TlsEntry, now: datetime) -> Certificate:
        """Raises OSError, StoreError, and ValueError for names that a certificate cannot hold."""
        from reconciler.identity.authority import LIFE, open_authority

        pem = open_authority(self._data, self._fleet, now).issue(entry.names, now)
        return Certificate(context=make_context(pem), made_at=now, due_at=now + LIFE / 2)

    def _admit(self, line: Line, headers: Sequence[Header]) -> Deny | None:
        """None once the line is the door's of the instance whose token it shows, from then on."""
        if not isinstance(line, TlsLine) or not line.is_stranger:
            return None
        digest = identity.read_digest(headers)
        door = self._find_door(digest) if digest is not None else None
        if door is None:
            return identity.deny_unknown()
        return None if line.move_to(door) else identity.deny_crowd(door.max_lines)

    async def _turn_away(self, line: Line, denied: Deny) -> Answer:
        """Counted, and the last answer on this line."""
        self._route.log.count(STRANGER, "", denied.code, denied.step)
        line.shutdown()
        return refused(denied, self._route.rules)
