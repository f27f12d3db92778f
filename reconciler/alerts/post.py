"""One POST with a deadline for all of it. No redirect is followed and no proxy asked; no fault names the address."""

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

_MOST_ANSWER = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status` and the beginning of the body; where there is none, `fault` says why."""

    status: int = 0
    body: bytes = b""
    fault: str = ""


def post(
    url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, tls: ssl.SSLContext | None = None
) -> Answer:
    """What the server says within `timeout_s`. Raises nothing."""
    parts = urlsplit(url)
    connection = _connect(parts.scheme, parts.hostname or "", parts.port, timeout_s, tls)
    is_over = threading.Event()
    deadline = threading.Timer(timeout_s, _cut, [connection, is_over])
    deadline.start()
    try:
        target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        connection.request("POST", target, body=body, headers=dict(headers))
        response = connection.getresponse()
        said = response.read(_MOST_ANSWER)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return Answer(fault=f"no answer within {timeout_s:g}s ({type(exc).__name__})")
    finally:
        deadline.cancel()
        connection.close()
    if is_over.is_set():
        return Answer(fault=f"no answer within {timeout_s:g}s (it did not end)")
    return Answer(status=response.status, body=said)


def _connect(
    scheme: str, host: str, port: int | None, timeout_s: float, tls: ssl.SSLContext | None
) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls or ssl.create_default_context())


def _cut(connection: http.client.HTTPConnection, is_over: threading.Event) -> None:
    """End a connection whose time is over, however it drips."""
    is_over.set()
    link = connection.sock
    if link is not None:
        with suppress(OSError):
            socket.socket.shutdown(link, socket.SHUT_RDWR)
