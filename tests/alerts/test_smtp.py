"""Notices by mail: at a real server, encrypted and logged in to, each once, and silent about the password."""

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from reconciler.alerts.sink import Sent
from reconciler.alerts.smtp import SmtpSink
from reconciler.settings_notify import Smtp
from tests.alerts.mail import PASSWORD, USER, MailServer, Security, mail_server

NOTICE = {
    "id": "0a1b2c",
    "fleet": "33c38599",
    "status": "raised",
    "type": "RouterDown",
    "subject": "hub",
    "reason": "NoAnswer",
    "message": "der Router antwortet nicht: für Stunden\r\nBcc: eve@example.org",
    "since": "2026-11-21T12:00:00+00:00",
    "time": "2026-11-21T12:00:10+00:00",
}
DOCUMENT = json.dumps(NOTICE).encode()


def sink_of(at: MailServer, folder: Path, *, timeout_s: float = 20.0, **more: Any) -> SmtpSink:
    password = folder / "password"
    if not password.exists():
        password.write_text(f"{PASSWORD}\n")
    section = {
        "server": f"localhost:{at.port}",
        "from": "hub@example.org",
        "to": ["ops@example.org", "dev@example.org"],
        "user": USER,
        "passwordFile": str(password),
        "caFile": at.ca_file or None,
        **more,
    }
    return SmtpSink(Smtp.model_validate(section), timeout_s)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_notice_is_a_mail_to_each_encrypted_and_logged_in(tmp_path: Path, security: Security) -> None:
    with mail_server(tmp_path, security) as server:
        assert sink_of(server, tmp_path, security=security).send(DOCUMENT) == Sent()
    (mail,) = server.mails
    assert (server.users, server.were_secret) == ([USER], [True])
    assert server.recipients == [["ops@example.org", "dev@example.org"]]
    assert mail["subject"] == "[reconciler 33c38599] raised: RouterDown of hub"
    assert (mail["from"], mail["to"]) == ("hub@example.org", "ops@example.org, dev@example.org")
    assert mail["message-id"] == "<0a1b2c@example.org>"
    assert mail["auto-submitted"] == "auto-generated"
    assert mail["bcc"] is None
    assert mail.get_content().splitlines()[:4] == [
        "der Router antwortet nicht: für Stunden Bcc: eve@example.org",
        "",
        "fleet: 33c38599",
        "subject: hub",
    ]


def test_a_server_of_this_host_may_be_spoken_to_in_clear_text_and_without_a_user(tmp_path: Path) -> None:
    with mail_server(tmp_path, "none") as server:
        sink = sink_of(server, tmp_path, security="none", user=None, passwordFile=None)
        assert sink.send(DOCUMENT) == Sent()
    assert (len(server.mails), server.users) == (1, [])


def test_a_heartbeat_is_a_mail_too(tmp_path: Path) -> None:
    beat = {"id": "heartbeat-1", "status": "alive", "type": "Heartbeat", "subject": "hub"}
    with mail_server(tmp_path) as server:
        assert sink_of(server, tmp_path).send(json.dumps(beat).encode()) == Sent()
    assert server.mails[0]["subject"] == "[reconciler] alive: Heartbeat of hub"


def test_nothing_is_said_to_a_server_that_nobody_vouches_for(tmp_path: Path) -> None:
    with mail_server(tmp_path) as server:
        assert sink_of(server, tmp_path, caFile=None).send(DOCUMENT).fault == (
            "no answer within 20s (SSLCertVerificationError)"
        )
        name = sink_of(server, tmp_path, server=f"127.0.0.1:{server.port}")
        assert name.send(DOCUMENT).fault == "no answer within 20s (SSLCertVerificationError)"
    assert (server.mails, server.users) == ([], [])


def test_without_starttls_neither_password_nor_mail_is_sent(tmp_path: Path) -> None:
    with mail_server(tmp_path, "none") as server:
        sent = sink_of(server, tmp_path).send(DOCUMENT)
    assert sent == Sent(fault="it offers no STARTTLS, or no way to log in that is known")
    assert (server.mails, server.users) == ([], [])


def test_the_password_is_read_each_time_and_a_wrong_one_is_not_final(tmp_path: Path) -> None:
    password = tmp_path / "password"
    with mail_server(tmp_path) as server:
        sink = sink_of(server, tmp_path)
        password.write_text("not-the-password")
        assert sink.send(DOCUMENT) == Sent(fault="it answered 535: user and password are not accepted")
        password.unlink()
        assert sink.send(DOCUMENT).fault == "its passwordFile or caFile cannot be read: No such file or directory"
        password.write_text(PASSWORD)
        assert sink.send(DOCUMENT) == Sent()


@pytest.mark.parametrize(("reply", "is_final"), [("451 later", False), ("452 full", False), ("554 spam", True)])
def test_what_the_server_refuses_for_good_is_final(tmp_path: Path, reply: str, is_final: bool) -> None:
    with mail_server(tmp_path) as server:
        server.answer = lambda: reply
        assert sink_of(server, tmp_path).send(DOCUMENT) == Sent(fault=f"it answered {reply[:3]}", is_final=is_final)


def test_one_recipient_who_is_refused_does_not_make_the_others_get_it_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mail_server(tmp_path) as server:
        server.recipient = lambda address: "550 who?" if address.startswith("dev") else ""
        assert sink_of(server, tmp_path).send(DOCUMENT) == Sent()
        assert server.recipients == [["ops@example.org"]]
        assert "a mail was refused for 1 of 2 recipients" in caplog.text
        server.recipient = lambda _address: "550 who?"
        assert sink_of(server, tmp_path).send(DOCUMENT) == Sent(fault="it refused each recipient (550)", is_final=True)
        server.recipient = lambda _address: "451 greylisted"
        assert not sink_of(server, tmp_path).send(DOCUMENT).is_final


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("drip", [b"", b"2", b"220-x\r\n"])
def test_a_server_that_never_ends_its_answer_is_left_at_the_deadline(
    tmp_path: Path, drip: bytes, security: Security
) -> None:
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while not over.wait(0.02):
                try:
                    connection.sendall(drip)
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = MailServer(port=listener.getsockname()[1])
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            sent = sink_of(server, tmp_path, security=security, timeout_s=0.3).send(DOCUMENT)
        finally:
            over.set()
            thread.join()
    assert sent.fault.startswith("no answer within 0.3s (")
    assert not sent.is_final


def test_a_server_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    with mail_server(tmp_path) as server:
        pass
    assert sink_of(server, tmp_path).send(DOCUMENT) == Sent(fault="no answer within 20s (ConnectionRefusedError)")


def test_a_server_that_turns_everybody_away_is_a_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"554 not today\r\n")
                connection.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        sent = sink_of(MailServer(port=listener.getsockname()[1]), tmp_path).send(DOCUMENT)
        thread.join()
    assert sent == Sent(fault="it answered 554")


def test_no_fault_and_no_text_of_the_settings_holds_the_password(tmp_path: Path) -> None:
    with mail_server(tmp_path) as server:
        server.answer = lambda: f"451 {PASSWORD}"
        sent = sink_of(server, tmp_path).send(DOCUMENT)
    assert sent == Sent(fault="it answered 451")
