"""One call on the router's control socket: a connection of its own, a time-out, JSON in and out."""

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reconciler.errors import RouterError

CONTROL_SOCKET = "control.sock"
CALL_TIMEOUT_S = 10.0


class RefusedByRouterError(RouterError):
    """The router answered, and said no: the same call will fail again. `status` is HTTP's."""

    retryable = False

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def call(
    run: Path, method: str, path: str, body: object = None, *, timeout_s: float = CALL_TIMEOUT_S
) -> Mapping[str, Any]:
    """What the router answers. Raises RouterError, and RefusedByRouterError with the router's reason."""
    content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
    what = f"{method} {path.partition('?')[0]} of the router in {run}"
    with _connect(run, timeout_s, what) as connection:
        try:
            connection.request(method, path, body=content)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RouterError(f"{what} failed") from error
    if not isinstance(answer, dict):
        raise RouterError(f"{what}: the answer is no object")
    if response.status >= 400:
        reason = str(answer.get("reason", response.reason))
        if response.status >= 500:
            raise RouterError(f"{what}: {reason}")
        raise RefusedByRouterError(f"{what}: {reason}", response.status)
    return answer


def is_listening(run: Path) -> bool:
    """Whether somebody takes connections on the control socket. Raises RouterError when that cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CALL_TIMEOUT_S)
        try:
            probe.connect(str(run / CONTROL_SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            raise RouterError(f"looking for the router in {run}") from error
    return True


@contextlib.contextmanager
def _connect(run: Path, timeout_s: float, what: str) -> Iterator[http.client.HTTPConnection]:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(timeout_s)
    connection = http.client.HTTPConnection("router")
    connection.sock = link
    try:
        try:
            link.connect(os.fspath(run / CONTROL_SOCKET))
        except OSError as error:
            raise RouterError(f"{what} failed: it does not answer") from error
        yield connection
    finally:
        connection.close()
        link.close()
