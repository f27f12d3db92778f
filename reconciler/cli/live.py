"""Where `plan --live` gets the state of a fleet from: a file, a hub's socket, or its address."""

import http.client
import json
import stat
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from reconciler.api.client import HubAwayError, call
from reconciler.core.problem import Problem
from reconciler.errors import UsageError
from reconciler.loop.export import MAX_BYTES, Export, read_export

TARGET = "/api/v1/export"
TIMEOUT_S = 30.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def read_live(where: str, token_file: str | None) -> Export | Problem:
    """The export, or what is wrong with it. Raises UsageError, HubAwayError where it cannot be had."""
    url = urlsplit(where)
    if url.scheme in ("http", "https"):
        return read_export(_fetch(where, url, _read_token(token_file)), where)
    if "://" in where:
        raise UsageError(f"{where} is no address of a hub; write http://, https://, a socket's path or a file")
    if token_file is not None:
        raise UsageError(f"{where} is no address; --token-file goes with http:// or https://")
    return _read_path(Path(where))


def _read_path(path: Path) -> Export | Problem:
    try:
        mode = path.stat().st_mode
        if stat.S_ISSOCK(mode):
            return _ask(path)
        if not stat.S_ISREG(mode):
            return Problem(
                file=str(path), message="is neither a file nor a socket; name an export, or a hub's api.sock"
            )
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        return Problem(file=str(path), message=f"cannot be read: {exc.strerror}; `reconciler plan --export` makes one")
    return _too_large(str(path)) if len(content) > MAX_BYTES else read_export(content, str(path))


def _ask(path: Path) -> Export | Problem:
    try:
        answer = call(path, "GET", TARGET)
    except ValueError as exc:
        raise HubAwayError(f"what answers on {path} is no hub, or an older one") from exc
    return read_export(json.dumps(answer).encode(), str(path))


def _too_large(where: str) -> Problem:
    return Problem(file=where, message=f"has more than {MAX_BYTES} bytes, which no export has")


def _read_token(file: str | None) -> str:
    if file is None:
        return ""
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as exc:
        raise UsageError(f"the token in {file} cannot be read; name a file that holds one line") from exc
    if not token or not token.isprintable() or " " in token:
        raise UsageError(f"{file} does not hold a token: it must be one line without spaces")
    return token


def _fetch(where: str, url: SplitResult, token: str) -> bytes:
    """The body of the hub's answer. Redirects are not followed: the token is for this address only."""
    host, secure = url.hostname or "", url.scheme == "https"
    if not host or url.username is not None or url.query or url.fragment:
        raise UsageError("write the hub's address as https://HOST[:PORT], and its token into a --token-file")
    if token and not secure and host not in LOOPBACK:
        raise UsageError(f"a token is not sent to {host} in the clear; use https://")
    try:
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(host, url.port, timeout=TIMEOUT_S)
    except ValueError as exc:
        raise UsageError(f"{where} is no address: {exc}") from exc
    headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        connection.request("GET", f"{url.path.rstrip('/')}{TARGET}", headers=headers)
        answer = connection.getresponse()
        content = answer.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise HubAwayError(f"no hub answers at {where}") from exc
    finally:
        connection.close()
    if answer.status != 200:
        why = {401: "it wants a --token-file", 403: "the token may not read it", 404: "it is no hub, or an older one"}
        raise HubAwayError(f"{where} answered {answer.status}: {why.get(answer.status, 'ask whoever runs it')}")
    if len(content) > MAX_BYTES:
        raise HubAwayError(f"{where} answered with more than {MAX_BYTES} bytes, which no export has")
    return content
