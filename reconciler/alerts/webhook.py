"""The sink `webhook`: a notice is posted as JSON, and signed as Standard Webhooks does it (`v1`, HMAC-SHA256).

No redirect is followed and no proxy asked. Neither address nor key are ever part of a fault.
"""

import base64
import hashlib
import hmac
import http.client
import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.alerts.sink import Sent
from reconciler.settings import Webhook

_MAY_PASS = (408, 425, 429)
_MOST_ANSWER = 64 * 1024


class WebhookSink:
    """Posts to one address. A status of 2xx means that it arrived; 408, 425, 429 and 5xx that it may later."""

    def __init__(self, webhook: Webhook, timeout_s: float) -> None:
        self._webhook = webhook
        self._timeout_s = timeout_s

    def send(self, document: bytes) -> Sent:
        try:
            headers = self._headers(document)
        except OSError as exc:
            return Sent(fault=f"its keyFile {self._webhook.key_file} cannot be read: {exc.strerror}")
        url = urlsplit(self._webhook.url)
        connection = self._connection()
        is_over = threading.Event()
        deadline = threading.Timer(self._timeout_s, _cut, [connection, is_over])
        deadline.start()
        try:
            target = f"{url.path or '/'}{f'?{url.query}' if url.query else ''}"
            connection.request("POST", target, body=document, headers=headers)
            response = connection.getresponse()
            response.read(_MOST_ANSWER)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            return Sent(fault=f"no answer within {self._timeout_s:g}s ({type(exc).__name__})")
        finally:
            deadline.cancel()
            connection.close()
        if is_over.is_set():
            return Sent(fault=f"no answer within {self._timeout_s:g}s (it did not end)")
        if 200 <= response.status < 300:
            return Sent()
        may_pass = response.status in _MAY_PASS or response.status >= 500
        return Sent(fault=f"it answered {response.status}", is_final=not may_pass)

    def _headers(self, document: bytes) -> dict[str, str]:
        """Raises OSError."""
        id_ = str(json.loads(document)["id"])
        headers = {"content-type": "application/json", "user-agent": "reconciler", "webhook-id": id_}
        if self._webhook.key_file is None:
            return headers
        sent_at = str(int(time.time()))
        signature = sign(Path(self._webhook.key_file).read_bytes().strip(), id_, sent_at, document)
        return {**headers, "webhook-timestamp": sent_at, "webhook-signature": signature}

    def _connection(self) -> http.client.HTTPConnection:
        url = urlsplit(self._webhook.url)
        host = url.hostname or ""
        if url.scheme == "http":
            return http.client.HTTPConnection(host, url.port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(
            host, url.port, timeout=self._timeout_s, context=ssl.create_default_context()
        )


def sign(key: bytes, id_: str, sent_at: str, document: bytes) -> str:
    """The value of `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    said = b".".join((id_.encode(), sent_at.encode(), document))
    return f"v1,{base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()}"


def _cut(connection: http.client.HTTPConnection, is_over: threading.Event) -> None:
    """End a connection whose time is over, however it drips."""
    is_over.set()
    link = connection.sock
    if link is not None:
        with suppress(OSError):
            socket.socket.shutdown(link, socket.SHUT_RDWR)
