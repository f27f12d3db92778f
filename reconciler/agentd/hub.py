"""HTTP to the hub, over its unix socket or TLS.

One call in, one `Answer` out; a hub that does not answer is `HubGoneError`.

The token is read from its file at each call, since the hub rotates it by renaming a new file into
its place.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from reconciler.agentd.dial import Dial, explain, shut
from reconciler.agentd.message import Message
from reconciler.agentd.response import Response, ResponseError, read_response

CALL_TIMEOUT_S = 15.0
_MAX_RETRY_AFTER_S = 300.0
_PASSING = frozenset({401, 408, 425, 429})
_TOKEN = re.compile(r"[\x21-\x7e]+")


class HubGoneError(Exception):
    """Nobody answered. The same call may succeed later."""


@dataclass(frozen=True)
class Answer:
    """What the hub said.

    `code` is the problem's code; `retry_after_s` is 0 where the hub named no time.
    """

    status: int
    body: Mapping[str, object] = field(default_factory=dict)
    retry_after_s: float = 0.0
    is_last: bool = False

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_passing(self) -> bool:
        """A refusal that may pass by itself: overload, outage, a token just rotated."""
        return self.status in _PASSING or self.status >= 500

    @property
    def code(self) -> str:
        return str(self.body.get("code", ""))

    @property
    def explanation(self) -> str:
        """For a log line: status, code and reason."""
        why = self.body.get("reason") or self.body.get("title") or ""
        return f"{self.status} {self.code} {why}".strip()


class Hub:
    """The hub's agent plane, from any thread.

    `last_ok` tells when (CLOCK_BOOTTIME) it last accepted a call.
    """

    def __init__(self, dial: Dial, token_file: str) -> None:
        self._dial = dial
        self._token_file = token_file
        self.last_ok = boottime_s()

    def send(self, message: Message, *, wait_s: float = 0) -> Answer:
        """Post one message on a connection of its own. Raises HubGoneError."""
        with contextlib.closing(self.connect()) as connection:
            return connection.post(message, wait_s=wait_s)

    def connect(self) -> Connection:
        """A connection that is kept, and breaks when the router ends. Raises HubGoneError."""
        return Connection(self, self._dial)

    def read_token(self) -> str:
        """Raises HubGoneError, whose message never holds what the file holds."""
        try:
            with open(self._token_file, encoding="ascii") as file:
                token = file.read(4096).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HubGoneError(f"the token file cannot be read ({type(error).__name__})") from error
        if not _TOKEN.fullmatch(token):
            raise HubGoneError("the token file holds no token")
        return token


class Connection:
    """One connection to the router for calls in sequence. `abort` may come from another thread."""

    def __init__(self, hub: Hub, dial: Dial) -> None:
        self._hub = hub
        try:
            self._socket = dial.connect(CALL_TIMEOUT_S)
        except OSError as error:
            raise HubGoneError(f"connecting to {dial.place}: {explain(error)}") from error

    def post(self, message: Message, *, wait_s: float = 0) -> Answer:
        """One message. Raises as `call` does."""
        query = f"?{urlencode({'wait': f'{wait_s:g}'})}" if wait_s else ""
        return self.call("POST", f"/api/hub/messages{query}", message.body, CALL_TIMEOUT_S + wait_s)

    def call(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        """One request and its answer.

        Raises HubGoneError, after which the connection is of no more use.
        """
        request = _write_request(method, path, self._hub.read_token(), body)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(request)
            response = read_response(self._socket)
        except (OSError, ResponseError) as error:
            raise HubGoneError(f"{method} {path.partition('?')[0]}: {error or type(error).__name__}") from error
        answer = _read_answer(response)
        if answer.is_ok:
            self._hub.last_ok = boottime_s()
        return answer

    def abort(self) -> None:
        """Make a call that is waiting in another thread fail at once."""
        with contextlib.suppress(OSError):
            shut(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Backoff:
    """Exponential pauses with jitter: base, twice that, ... up to the cap, each times 0.5 to 1."""

    def __init__(self, *, base_s: float = 0.2, cap_s: float = 15.0) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._failures = 0

    def next_s(self) -> float:
        """The pause after one more failure."""
        exact = min(self._cap_s, self._base_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return exact * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        self._failures = 0


def boottime_s() -> float:
    """Seconds that also count while the machine sleeps, where the system offers that."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _write_request(method: str, path: str, token: str, body: bytes | None) -> bytes:
    """Head and body in one piece, which the router answers by a shorter way than two."""
    lines = [f"{method} {path} HTTP/1.1", "Host: hub", f"Authorization: Bearer {token}"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


def _read_answer(response: Response) -> Answer:
    try:
        body = json.loads(response.content) if response.content else {}
    except (ValueError, RecursionError):
        body = {}
    if not isinstance(body, dict):
        body = {}
    named = response.headers.get("retry-after") or body.get("retry_after_s")
    return Answer(
        status=response.status,
        body=body,
        retry_after_s=_read_retry_after_s(named) if named is not None else 0.0,
        is_last=response.is_last,
    )


def _read_retry_after_s(named: object) -> float:
    try:
        seconds = float(str(named))
    except ValueError:
        return 0.0
    return min(seconds, _MAX_RETRY_AFTER_S) if seconds > 0 else 0.0
