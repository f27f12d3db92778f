"""Calls on a running hub's operator plane: plain values in and out. Standard library only, so that it starts fast."""

import http.client
import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reconciler.errors import ReconcilerError, UsageError

TIMEOUT_S = 30.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A hub's port: `prefix` stands before each path, `token` is shown with each request."""

    host: str
    port: int | None
    is_secure: bool
    prefix: str
    token: str = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"{'https' if self.is_secure else 'http'}://{host}{port}{self.prefix}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def connect(self) -> http.client.HTTPConnection:
        """Not connected yet. Redirects are nobody's business here: the token is for this address only."""
        kind = http.client.HTTPSConnection if self.is_secure else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=TIMEOUT_S)


def parse_remote(where: str, token_file: str | None) -> Remote:
    """`https://HOST[:PORT]`, and the file with the token. Raises UsageError; a token is not sent in the clear."""
    url = urlsplit(where)
    host, secure, token = url.hostname or "", url.scheme == "https", read_token(token_file)
    if url.scheme not in ("http", "https") or not host or url.username is not None or url.query or url.fragment:
        raise UsageError("write the hub's address as https://HOST[:PORT], and its token into a --token-file")
    if token and not secure and host not in LOOPBACK:
        raise UsageError(f"a token is not sent to {host} in the clear; use https://")
    try:
        port = url.port
    except ValueError as exc:
        raise UsageError(f"{where} is no address: {exc}") from exc
    return Remote(host=host, port=port, is_secure=secure, prefix=url.path.rstrip("/"), token=token)


def read_token(file: str | None) -> str:
    """The token in a file; empty where none is named. Raises UsageError."""
    if file is None:
        return ""
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as exc:
        raise UsageError(f"the token in {file} cannot be read; name a file that holds one line") from exc
    if not token or not token.isprintable() or " " in token:
        raise UsageError(f"{file} does not hold a token: it must be one line without spaces")
    return token


def call(hub: Path | Remote, method: str, target: str, body: bytes = b"") -> Any:
    """The JSON answer. Raises HubAwayError when nobody listens, UsageError with the hub's reason when it refuses."""
    connection = hub.connect() if isinstance(hub, Remote) else _UnixConnection(hub)
    prefix, headers = (hub.prefix, hub.headers) if isinstance(hub, Remote) else ("", {})
    try:
        connection.request(method, prefix + target, body=body or None, headers=headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise HubAwayError(f"no hub answers on {hub}") from exc
    finally:
        connection.close()
    return _read_answer(response.status, content, hub)


def _read_answer(status: int, content: bytes, hub: Path | Remote) -> Any:
    try:
        value = json.loads(content) if content else None
    except ValueError as exc:
        raise HubAwayError(f"what answers on {hub} is no hub, or an older one") from exc
    if status >= 400 and status != 503:
        detail = value.get("detail") if isinstance(value, dict) else None
        raise UsageError(detail or f"the hub answered {status}")
    return value
