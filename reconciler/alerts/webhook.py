"""The sink `webhook`: a notice is posted as JSON, and signed as Standard Webhooks does it (`v1`, HMAC-SHA256).

No redirect is followed and no proxy asked. Neither address nor key are ever part of a fault.
"""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

from reconciler.alerts.post import post
from reconciler.alerts.sink import Sent
from reconciler.settings import Webhook

_MAY_PASS = (408, 425, 429)


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
        answer = post(self._webhook.url, document, headers, self._timeout_s)
        if answer.fault:
            return Sent(fault=answer.fault)
        if 200 <= answer.status < 300:
            return Sent()
        may_pass = answer.status in _MAY_PASS or answer.status >= 500
        return Sent(fault=f"it answered {answer.status}", is_final=not may_pass)

    def _headers(self, document: bytes) -> dict[str, str]:
        """Raises OSError."""
        id_ = str(json.loads(document)["id"])
        headers = {"content-type": "application/json", "user-agent": "reconciler", "webhook-id": id_}
        if self._webhook.key_file is None:
            return headers
        sent_at = str(int(time.time()))
        signature = sign(Path(self._webhook.key_file).read_bytes().strip(), id_, sent_at, document)
        return {**headers, "webhook-timestamp": sent_at, "webhook-signature": signature}


def sign(key: bytes, id_: str, sent_at: str, document: bytes) -> str:
    """The value of `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    said = b".".join((id_.encode(), sent_at.encode(), document))
    return f"v1,{base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()}"
