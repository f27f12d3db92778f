"""Calls on a running hub's operator plane: plain values in and out. Standard library only, so that it starts fast."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from reconciler.errors import ReconcilerError, UsageError

TIMEOUT_S = 30.0


class HubAwayError(ReconcilerError):
    """No hub answers on the socket."""

    retryable = True


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("hub", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(path: Path, method: str, target: str, body: bytes = b"") -> Any:
    """The JSON answer. Raises HubAwayError when nobody listens, UsageError with the hub's reason when it refuses."""
    connection = _UnixConnection(path)
    try:
        connection.request(method, target, body=body or None)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise HubAwayError(f"no hub answers on {path}") from exc
    finally:
        connection.close()
    value = json.loads(content) if content else None
    if response.status >= 400 and response.status != 503:
        detail = value.get("detail") if isinstance(value, dict) else None
        raise UsageError(detail or f"the hub answered {response.status}")
    return value
