"""Every container that an engine makes for a fleet, by the engine's own events. Nothing of the reconciler."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.outside.checker import engine_socket


@dataclass(frozen=True)
class Birth:
    """A container came to be. `at` is the engine's wall clock, in seconds since the epoch."""

    id: str
    instance: str
    at: float


class Births(threading.Thread):
    """Follows the engine's events; a lost connection is taken up where it ended. All are in `seen` after `close`."""

    def __init__(self, fleet: str) -> None:
        super().__init__(daemon=True)
        self._fleet = fleet
        self._over = threading.Event()
        self._connection: socket.socket | None = None
        self._known: dict[str, Birth] = {}
        self._since = 0.0

    @property
    def seen(self) -> list[Birth]:
        """In the order in which they were made."""
        return sorted(self._known.values(), key=lambda birth: birth.at)

    def run(self) -> None:
        while not self._over.wait(0.05):
            with suppress(OSError, ValueError, http.client.HTTPException):
                self._take(self._events())

    def close(self) -> None:
        """Take what has happened up to now, and end."""
        self._over.set()
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self._take(self._events(until=time.time()))

    def _take(self, events: Iterator[dict[str, Any]]) -> None:
        for event in events:
            self._since = event["timeNano"] / 1e9
            actor = event["Actor"]
            birth = Birth(actor["ID"], actor["Attributes"].get("io.reconciler.instance", "?"), self._since)
            self._known.setdefault(birth.id, birth)

    def _events(self, until: float | None = None) -> Iterator[dict[str, Any]]:
        """Those that the engine still has since the last one, and what comes until then, or until somebody ends it."""
        connection = http.client.HTTPConnection("engine")
        connection.sock = self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with closing(connection):
            connection.sock.connect(engine_socket())
            if self._over.is_set() and until is None:
                return
            labels = [f"io.reconciler.fleet={self._fleet}"]
            filters = quote(json.dumps({"label": labels, "type": ["container"], "event": ["create"]}))
            end = f"&until={until:.9f}" if until is not None else ""
            connection.request("GET", f"/events?since={self._since:.9f}{end}&filters={filters}")
            with connection.getresponse() as response:
                for line in response:
                    yield json.loads(line)
