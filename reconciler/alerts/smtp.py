"""The sink `smtp`: a mail for each notice, by STARTTLS or TLS, with the password read from its file each time.

The message id follows from the notice, so that a second try is the same mail. No fault holds the password, nor what the
server says beside its code.
"""

import logging
import os
import smtplib
import socket
import ssl
import threading
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.alerts.sink import Sent
from reconciler.alerts.text import Letter, compose
from reconciler.settings_notify import Smtp

_LOG = logging.getLogger("reconciler.alerts")
_READY = 220


class SmtpSink:
    """Hands mails to one server. A recipient that it refuses among others is said in the log, and not tried again."""

    def __init__(self, settings: Smtp, timeout_s: float) -> None:
        self._settings, self._timeout_s = settings, timeout_s

    def send(self, document: bytes) -> Sent:
        settings = self._settings
        try:
            password = Path(settings.password_file).read_text().strip() if settings.password_file else ""
            tls = ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, UnicodeDecodeError) as exc:
            return Sent(
                fault=f"its passwordFile or caFile cannot be read: {getattr(exc, 'strerror', None) or 'no text'}"
            )
        late = f"no answer within {self._timeout_s:g}s"
        line = _Line(settings, tls, self._timeout_s)
        try:
            with line:
                refused = line.deliver(_write(settings, compose(document)), password)
        except (OSError, ValueError) as exc:
            if line.is_over.is_set() or not isinstance(exc, smtplib.SMTPException):
                return Sent(fault=f"{late} ({type(exc).__name__})")
            return _explain(exc, late)
        if refused:
            _LOG.error("a mail was refused for %s of %s recipients", refused, len(settings.to))
        return Sent()


class _Line(smtplib.SMTP):
    """A connection whose time is over after `timeout_s`, however the server drips."""

    def __init__(self, settings: Smtp, tls: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(local_hostname=socket.gethostname() or "localhost", timeout=timeout_s)
        self._settings, self._tls, self._timeout_s = settings, tls, timeout_s
        self._plain: socket.socket | None = None
        self.is_over = threading.Event()
        self._deadline = threading.Timer(timeout_s, self._cut)

    def __enter__(self) -> Self:
        self._deadline.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadline.cancel()
        self.close()
        if self._plain is not None:
            self._plain.close()

    def deliver(self, message: EmailMessage, password: str) -> int:
        """How many recipients were refused, of whom not all were. Raises SMTPException, OSError."""
        settings, address = self._settings, self._settings.address
        self._host = address.host
        code, said = self.connect(address.host, address.port)
        if code != _READY:
            raise smtplib.SMTPConnectError(code, said)
        if settings.security == "starttls":
            self.starttls(context=self._tls)
        if settings.user is not None:
            self.login(settings.user, password)
        refused = self.send_message(message)
        with suppress(OSError):
            self.quit()
        return len(refused)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        link = socket.create_connection((host, port), timeout)
        self._plain = socket.socket(fileno=os.dup(link.fileno()))
        return self._tls.wrap_socket(link, server_hostname=host) if self._settings.security == "tls" else link

    def _cut(self) -> None:
        """The duplicate reaches the connection also while TLS is being agreed on."""
        self.is_over.set()
        if self._plain is not None:
            with suppress(OSError):
                self._plain.shutdown(socket.SHUT_RDWR)


def _write(settings: Smtp, letter: Letter) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = settings.sender, ", ".join(settings.to)
    message["Subject"], message["Date"] = letter.title, formatdate()
    message["Message-ID"] = f"<{letter.id}@{settings.sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.body, cte="quoted-printable")
    return message


def _explain(exc: smtplib.SMTPException, late: str) -> Sent:
    """A 5xx about the mail will stay; one about the password can be mended without another mail."""
    match exc:
        case smtplib.SMTPAuthenticationError():
            return Sent(fault=f"it answered {exc.smtp_code}: user and password are not accepted")
        case smtplib.SMTPNotSupportedError():
            return Sent(fault="it offers no STARTTLS, or no way to log in that is known")
        case smtplib.SMTPRecipientsRefused():
            codes = {code for code, _ in exc.recipients.values()}
            return Sent(fault=f"it refused each recipient ({min(codes)})", is_final=min(codes) >= 500)
        case smtplib.SMTPResponseException():
            is_final = 500 <= exc.smtp_code < 600 and not isinstance(
                exc, smtplib.SMTPConnectError | smtplib.SMTPHeloError
            )
            return Sent(fault=f"it answered {exc.smtp_code}", is_final=is_final)
        case _:
            return Sent(fault=f"{late} ({type(exc).__name__})")
