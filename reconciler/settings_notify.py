"""What `operator.yaml` says of telling others: the section `commitStatus`."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from reconciler.core.model import Line, Model
from reconciler.core.provider_url import parse_provider_url
from reconciler.core.quantity import Duration
from reconciler.settings_source import AbsolutePath, Forge

_URLS: Mapping[str, str] = {"github": "https://api.github.com", "gitlab": "https://gitlab.com"}
_PROJECT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
_LINK = re.compile(r"https?://([!-z|~]|\{fleet\}|\{revision\})+")


def _check_forge_url(value: str) -> str:
    url = parse_provider_url(value)
    if not url.is_tls and not url.address.is_local:
        raise ValueError(f"is {value!r}, which would carry the token in clear text; write https://")
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
            raise ValueError(f"is {link!r}, which is no URL; write https://…, with {{fleet}} and {{revision}} in it")
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
