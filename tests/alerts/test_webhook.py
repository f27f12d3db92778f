"""The webhook: posted once, signed as Standard Webhooks says, within a deadline, and silent about its secrets."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.alerts.sink import Sent
from reconciler.alerts.webhook import WebhookSink
from reconciler.settings import Webhook
from tests.alerts.receiver import Receiver, receiving

DOCUMENT = json.dumps({"id": "n-1", "status": "raised", "type": "RouterDown", "message": "für"}).encode()
SECRET = "whsec-very-secret"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def sink_of(url: str, key: Path | None = None, timeout_s: float = 60.0) -> WebhookSink:
    return WebhookSink(Webhook.model_validate({"url": url, "keyFile": str(key) if key else None}), timeout_s)


def test_a_notice_is_posted_as_it_is(receiver: Receiver) -> None:
    assert sink_of(f"{receiver.url}/hook?room=1").send(DOCUMENT) == Sent()
    (post,) = receiver.posts
    assert (post.path, post.body) == ("/hook?room=1", DOCUMENT)
    assert post.headers["content-type"] == "application/json"
    assert post.headers["webhook-id"] == "n-1"
    assert "webhook-signature" not in post.headers


def test_with_a_key_it_is_signed_over_id_time_and_body(receiver: Receiver, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{SECRET}\n")
    assert sink_of(receiver.url, key).send(DOCUMENT) == Sent()
    (post,) = receiver.posts
    sent_at = post.headers["webhook-timestamp"]
    assert abs(int(sent_at) - time.time()) < 60
    expected = hmac.new(SECRET.encode(), b"n-1." + sent_at.encode() + b"." + DOCUMENT, hashlib.sha256).digest()
    assert post.headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"


def test_a_key_is_read_each_time_so_that_it_can_be_changed(receiver: Receiver, tmp_path: Path) -> None:
    key = tmp_path / "key"
    sink = sink_of(receiver.url, key)
    sent = sink.send(DOCUMENT)
    assert sent.fault.endswith("cannot be read: No such file or directory")
    assert receiver.posts == []
    key.write_text(SECRET)
    assert sink.send(DOCUMENT) == Sent()


@pytest.mark.parametrize("status", [301, 302, 400, 401, 404, 410])
def test_what_will_never_be_taken_is_final_and_no_redirect_is_followed(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _n: status
    assert sink_of(receiver.url).send(DOCUMENT) == Sent(fault=f"it answered {status}", is_final=True)
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_what_may_pass_is_not_final(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _n: status
    assert sink_of(receiver.url).send(DOCUMENT) == Sent(fault=f"it answered {status}")


def test_a_fault_never_tells_the_address_or_the_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sent = sink_of(f"http://127.0.0.1:{port}/services/T0/{SECRET}", key).send(DOCUMENT)
    assert sent == Sent(fault="no answer within 60s (ConnectionRefusedError)")


def test_neither_does_what_is_shown_of_the_settings() -> None:
    assert SECRET not in repr(Webhook.model_validate({"url": f"https://example.org/{SECRET}"}))


@pytest.mark.parametrize("drip", [b"", b"H", b"HTTP/1.1 200 OK\r\nx: "])
def test_a_server_that_never_ends_its_answer_is_left_at_the_deadline(drip: bytes) -> None:
    over = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(drip)
            while not over.wait(0.02):
                try:
                    connection.sendall(b"y" if drip else b"")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            sent = sink_of(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.3).send(DOCUMENT)
        finally:
            over.set()
            thread.join()
    assert sent.fault.startswith("no answer within 0.3s (")
    assert not sent.is_final


def test_a_server_that_speaks_no_tls_is_a_fault(receiver: Receiver) -> None:
    sent = sink_of(receiver.url.replace("http:", "https:")).send(DOCUMENT)
    assert sent == Sent(fault="no answer within 60s (SSLError)")
