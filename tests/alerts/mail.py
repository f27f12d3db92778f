"""A real mail server (aiosmtpd) on a port of 127.0.0.1, with STARTTLS, TLS or neither, and a user."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from reconciler.identity.authority import open_authority

USER, PASSWORD = "hub@example.org", "smtp-0123456789"
Security = Literal["starttls", "tls", "none"]


@dataclass(slots=True)
class MailServer:
    """`answer` says what becomes of a mail, `recipient` of one recipient, as an SMTP reply; empty is fine."""

    port: int = 0
    ca_file: str = ""
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    were_secret: list[bool] = field(default_factory=list)
    answer: Callable[[], str] = lambda: ""
    recipient: Callable[[str], str] = lambda _address: ""

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if refused := self.recipient(address):
            return refused
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: Any, _session: Any, envelope: Any
    ) -> str:
        if refused := self.answer():
            return refused
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(list(envelope.rcpt_tos))
        self.were_secret.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 taken"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
        assert isinstance(given, LoginPassword)
        is_right = (given.login.decode(), given.password.decode()) == (USER, PASSWORD)
        if is_right:
            self.users.append(given.login.decode())
        return AuthResult(success=is_right, handled=False)


@contextmanager
def mail_server(folder: Path, security: Security = "starttls") -> Iterator[MailServer]:
    """Certificates are for `localhost`, by an authority of its own in `folder`. With STARTTLS it insists on a user."""
    made = MailServer()
    tls = None
    if security != "none":
        authority = open_authority(folder, "mail", datetime.now(UTC))
        (folder / "server.pem").write_bytes(authority.issue(["localhost"], datetime.now(UTC)))
        (folder / "authority.pem").write_bytes(authority.pem)
        made.ca_file = str(folder / "authority.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    made.port = listener.getsockname()[1]
    loop, is_up, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    def protocol() -> SMTP:
        return SMTP(
            made,
            hostname="mail.example.org",
            tls_context=tls if security == "starttls" else None,
            require_starttls=security == "starttls",
            auth_required=security == "starttls",
            auth_require_tls=security == "starttls",
            authenticator=made.authenticate,
            loop=loop,
        )

    async def serve() -> None:
        server = await loop.create_server(protocol, sock=listener, ssl=tls if security == "tls" else None)
        is_up.set()
        await over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert is_up.wait(30)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
