"""Where a forge tells that somebody pushed: one path on a listener of its own, away from the operator plane.

A request that the forge has signed makes the hub ask the repository; nothing that it says is believed or even parsed.
So the worst that a forged or repeated one could do is a fetch, and those are a second apart.

What is not signed costs little: a caller has a few tries, then one a second, before its body is read; bodies are hashed
as they come and never kept; a connection lives for seconds, and there are few of them.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reconciler.api.app import refuse
from reconciler.api.server import listen_at
from reconciler.api.tries import TRIES_PER_S, Tries
from reconciler.settings_source import Forge, SourceWebhook

MAX_BODY = 25 * 2**20
"""What GitHub sends at most."""
MAX_HEAD = 512 * 1024
MAX_CONNECTIONS = 64
LIFE_S = 20.0
_KEPT = 4096
_START_S = 10.0
_MAX_SECRET_BYTES = 4096
_DELIVERIES: Mapping[Forge, tuple[str, ...]] = {
    "github": ("x-github-delivery",),
    "gitea": ("x-forgejo-delivery", "x-gitea-delivery"),
    "gitlab": ("x-gitlab-event-uuid", "idempotency-key"),
}
_SIGNATURES: Mapping[Forge, tuple[str, ...]] = {
    "github": ("x-hub-signature-256",),
    "gitea": ("x-forgejo-signature", "x-gitea-signature"),
    "gitlab": (),
}
_DIGEST = re.compile(r"(?:sha256=)?([0-9a-f]{64})")


class Seen:
    """The latest deliveries: none counts twice, by its id or by its content."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, None] = OrderedDict()

    def is_new(self, *keys: str) -> bool:
        """Whether none of the keys was there before; they are from now on."""
        is_new = not any(key in self._keys for key in keys)
        for key in keys:
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > 2 * _KEPT:
            self._keys.popitem(last=False)
        return is_new


def build_webhook_app(settings: SourceWebhook, refresh: Callable[[], None], tries: Tries | None = None) -> Starlette:
    """`POST /webhooks/<forge>`: 202, or 401, 413, 429. `refresh` returns at once."""
    seen, tries = Seen(), tries or Tries()

    async def receive(request: Request) -> Response:
        caller = request.client.host if request.client else ""
        if not tries.take(caller):
            return refuse(429, "too many requests", {"retry-after": str(int(1 / TRIES_PER_S))})
        secret = _read_secret(settings.secret_file)
        if not secret:
            logging.getLogger("reconciler").error("webhook: %s cannot be read or is empty", settings.secret_file)
            return refuse(503, "the hub has no secret to compare with")
        digests = await _digests(request, secret)
        if digests is None:
            return refuse(413, f"the body has more than {MAX_BODY} bytes, or did not come")
        if not _is_signed(settings.forge, request, secret, digests[0]):
            return refuse(401, "the signature is missing or wrong")
        tries.give_back(caller)
        delivery = next((v for n in _DELIVERIES[settings.forge] if (v := request.headers.get(n))), "")
        if not seen.is_new(f"content {digests[1]}", *([f"id {delivery[:200]}"] if delivery else [])):
            return JSONResponse({"status": "seen before"}, status_code=202)
        refresh()
        return JSONResponse({"status": "the repository is asked"}, status_code=202)

    return Starlette(routes=[Route(f"/webhooks/{settings.forge}", receive, methods=["POST"])])


async def _digests(request: Request, secret: bytes) -> tuple[str, str] | None:
    """HMAC and hash of the body, as it comes; None where it is too long, too slow or cut off."""
    signed, plain, size = hmac.new(secret, digestmod="sha256"), hashlib.sha256(), 0
    try:
        async with asyncio.timeout(LIFE_S):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    return None
                signed.update(part)
                plain.update(part)
    except (TimeoutError, ClientDisconnect):
        return None
    return signed.hexdigest(), plain.hexdigest()


def _is_signed(forge: Forge, request: Request, secret: bytes, digest: str) -> bool:
    if forge == "gitlab":
        return hmac.compare_digest(request.headers.get("x-gitlab-token", "").encode(), secret)
    given = next((v for name in _SIGNATURES[forge] if (v := request.headers.get(name))), "")
    found = _DIGEST.fullmatch(given)
    return found is not None and hmac.compare_digest(found[1], digest)


def _read_secret(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_SECRET_BYTES).strip()
    except OSError:
        return b""


class _Hurried(HttpToolsProtocol):
    """A connection ends after a while, whatever it does, and at a long head; beyond a number none is taken."""

    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._end = self.loop.call_later(2 * LIFE_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        is_head = self.cycle is None or self.cycle.response_complete
        self._head_bytes = self._head_bytes + len(data) if is_head else 0
        if self._head_bytes > MAX_HEAD:
            self.transport.abort()
            return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if (end := getattr(self, "_end", None)) is not None:
            end.cancel()


class WebhookServer:
    """Serves in a thread of its own; `start` returns when it listens."""

    def __init__(self, settings: SourceWebhook, refresh: Callable[[], None]) -> None:
        self._settings = settings
        config = uvicorn.Config(
            build_webhook_app(settings, refresh),
            http=_Hurried,
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="webhook", daemon=True)

    def start(self) -> None:
        """Raises UsageError where the address cannot be listened on."""
        at = self._settings.listens_at
        self._socket = listen_at(at.host, at.port, "source.webhook")
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests under way and close."""
        self._server.should_exit = True
        self._thread.join(_START_S)

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))
