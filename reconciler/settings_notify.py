"""What `operator.yaml` says of telling others: the section `commitStatus`, and the sinks `smtp` and `apprise`."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from reconciler.core.address import TcpAddress, parse_address
from reconciler.core.model import Line, Model
from reconciler.core.provider_url import parse_provider_url
from reconciler.core.quantity import Duration
from reconciler.settings_source import AbsolutePath, Forge

_URLS: Mapping[str, str] = {"github": "https://api.github.com", "gitlab": "https://gitlab.com"}
_PROJECT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
_LINK = re.compile(r"https?://([!-z|~]|\{fleet\}|\{revision\})+")


def _check_forge_url(value: str) -> str:
    """The value may hold a secret, and is not repeated."""
    try:
        url = parse_provider_url(value)
    except ValueError:
        raise ValueError(
            "is no address of a forge such as https://git.example.org; nobody's name or password"
        ) from None
    if not url.is_tls and not url.address.is_local:
        raise ValueError("would carry the token in clear text; write https://")
    return value.rstrip("/")


class CommitStatus(Model):
    """Where a forge is told at each commit how it came out. `token_file` is read each time it is used.

    `url` is where the API is, up to `/repos`, `/api/v4` or `/api/v1`. A revision is a success once the fleet has been
    as it says for `settle`, and a failure if that is not so within `deadline`. `link` may hold `{fleet}` and
    `{revision}`.
    """

    forge: Forge
    url: Annotated[Line, AfterValidator(_check_forge_url)] | None = None
    project: Line
    token_file: AbsolutePath
    ca_file: AbsolutePath | None = None
    context: Annotated[Line, Field(min_length=1, max_length=100)] | None = None
    link: Annotated[Line, Field(max_length=160)] | None = None
    settle: Duration = Field(default=10.0, ge=0, le=3600)
    deadline: Duration = Field(default=600.0, ge=1)
    timeout: Duration = Field(default=10.0, ge=0.05, le=60)

    @property
    def address(self) -> str:
        return self.url or _URLS[self.forge]

    @field_validator("link")
    @classmethod
    def _check_link(cls, link: str | None) -> str | None:
        if link is not None and not _LINK.fullmatch(link):
            raise ValueError("is no URL; write https://…, with {fleet} and {revision} in it, and no other braces")
        return link

    @model_validator(mode="after")
    def _check_whole(self) -> "CommitStatus":
        if self.forge not in _URLS and self.url is None:
            raise ValueError(
                f"commitStatus does not say where {self.forge} is; write url, such as https://git.example.org"
            )
        is_id = self.forge == "gitlab" and self.project.isdecimal()
        levels = self.project.count("/") + 1
        if not is_id and (not _PROJECT.fullmatch(self.project) or (self.forge != "gitlab" and levels != 2)):
            wanted = "group/project or its number" if self.forge == "gitlab" else "owner/repository"
            raise ValueError(f"commitStatus.project is {self.project!r}; write {wanted}")
        return self


MailAddress = Annotated[Line, Field(pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+$", max_length=254)]
_PORTS: Mapping[str, int] = {"starttls": 587, "tls": 465, "none": 25}


class Smtp(Model):
    """A mail server, `host` or `host:port`. With `user` it is logged in to, by the content of `password_file`.

    `ca_file` names authorities instead of the system's. In clear text (`none`) only this host is spoken to.
    """

    server: Line
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: MailAddress = Field(alias="from")
    to: Annotated[tuple[MailAddress, ...], Field(min_length=1, max_length=100)]
    user: Annotated[Line, Field(min_length=1)] | None = None
    password_file: AbsolutePath | None = None
    ca_file: AbsolutePath | None = None

    @property
    def address(self) -> TcpAddress:
        return _parse_server(self.server, _PORTS[self.security])

    @field_validator("server")
    @classmethod
    def _check_server(cls, server: str) -> str:
        _parse_server(server, 0)
        return server

    @model_validator(mode="after")
    def _check_whole(self) -> "Smtp":
        if (self.user is None) != (self.password_file is None):
            raise ValueError("smtp needs user and passwordFile, or neither of them")
        if self.security == "none" and not self.address.is_local:
            raise ValueError(f"smtp.security is none, but {self.server} is not this host; write starttls or tls")
        return self


def _parse_server(server: str, port: int) -> TcpAddress:
    """`port` is meant where none is written. Raises ValueError, which does not repeat what may hold a secret."""
    found = None
    with suppress(ValueError):
        found = parse_address(f"http://{server}")
    if not isinstance(found, TcpAddress) or server.endswith("/"):
        raise ValueError("is no mail server; write mail.example.org or mail.example.org:587")
    return found if re.search(r":[0-9]+$", server) else TcpAddress(host=found.host, port=port)


class Apprise(Model):
    """Chat and other services by Apprise. `urls_file` has a URL of it per line; they hold secrets."""

    urls_file: AbsolutePath
