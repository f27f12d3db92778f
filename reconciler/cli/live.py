"""Where `plan --live` gets the state of a fleet from: a file, a hub's socket, or its address."""

import http.client
import json
import stat
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.api.client import HubAwayError, Remote, call, parse_remote
from reconciler.core.problem import Problem
from reconciler.errors import UsageError
from reconciler.loop.export import MAX_BYTES, Export, read_export

TARGET = "/api/v1/export"


def read_live(where: str, token_file: str | None) -> Export | Problem:
    """The export, or what is wrong with it. Raises UsageError, HubAwayError where it cannot be had."""
    url = urlsplit(where)
    if url.scheme in ("http", "https"):
        return read_export(_fetch(where, parse_remote(where, token_file)), where)
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
    return read_export(json.dumps(call(path, "GET", TARGET)).encode(), str(path))


def _too_large(where: str) -> Problem:
    return Problem(file=where, message=f"has more than {MAX_BYTES} bytes, which no export has")


def _fetch(where: str, remote: Remote) -> bytes:
    """The body of the hub's answer. Redirects are not followed: the token is for this address only."""
    connection = remote.connect()
    headers = {"Accept": "application/json", **remote.headers}
    try:
        connection.request("GET", f"{remote.prefix}{TARGET}", headers=headers)
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
