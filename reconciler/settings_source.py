"""The section `source` of `operator.yaml`: which repository, how it is reached, what of it is followed and believed."""

import fnmatch
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt, field_validator, model_validator

from reconciler.core.endpoint import Endpoint, parse_listen
from reconciler.core.model import Line, Model
from reconciler.core.origin import Origin, is_remote, parse_origin
from reconciler.core.quantity import Duration, Size
from reconciler.core.ref import DEFAULT_REF, Ref, parse_ref

AbsolutePath = Annotated[Line, Field(pattern=r"^/")]
VerifyMode = Literal["off", "head", "range", "merge"]
Forge = Literal["github", "gitlab", "gitea"]


class Credentials(Model):
    """What opens the repository, read each time it is used.

    For https `file` holds a token or `user:password`, or `command` prints it; for ssh `file` is a private key.
    `known_hosts` are the ssh servers that may be spoken to, `ca_file` the authorities of https instead of the system's.
    """

    file: AbsolutePath | None = None
    command: tuple[Line, ...] | None = None
    known_hosts: AbsolutePath | None = None
    ca_file: AbsolutePath | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Credentials":
        if self.file is not None and self.command is not None:
            raise ValueError("credentials has either 'file' or 'command', not both")
        if self.command is not None and (not self.command or not self.command[0].startswith("/")):
            raise ValueError("credentials.command begins with the absolute path of a program")
        return self


class Verify(Model):
    """Which commits must be signed, and by whom.

    `head`: the one that is followed; `range`: each that is new; `merge`: those of the first parents that are new.
    `branches` are patterns of refs with a mode of their own; the first one that fits counts.
    """

    mode: VerifyMode = "off"
    allowed_signers: AbsolutePath | None = None
    gpg_keys: AbsolutePath | None = None
    branches: dict[Line, VerifyMode] = Field(default_factory=dict)

    def mode_of(self, ref: str) -> VerifyMode:
        """`ref` is written as in `source.ref`."""
        return next((m for pattern, m in self.branches.items() if fnmatch.fnmatchcase(ref, pattern)), self.mode)

    @model_validator(mode="after")
    def _check_keys(self) -> "Verify":
        asked = {self.mode, *self.branches.values()} - {"off"}
        if asked and self.allowed_signers is None and self.gpg_keys is None:
            raise ValueError("verify names no keys; write allowedSigners (for ssh) or gpgKeys, an absolute path")
        return self


def _check_listen(value: str) -> str:
    parse_listen(value)
    return value


class SourceWebhook(Model):
    """Where a forge tells of pushes. `secret_file` is what the forge signs with, or with GitLab its token."""

    forge: Forge
    listen: Annotated[Line, AfterValidator(_check_listen)] = "tcp://127.0.0.1:8480"
    secret_file: AbsolutePath

    @property
    def listens_at(self) -> Endpoint:
        return parse_listen(self.listen)


class OperatorSource(Model):
    """`url` is a directory of this host, or a repository elsewhere; `path` a directory within it that has `hub.yaml`.

    `depth`: how many commits of history are fetched at first, all where it is not set. `max_size`: of one fetch.
    """

    url: Line = "."
    ref: Line | None = None
    path: Annotated[Line, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")] | None = None
    poll: Duration = Field(default=60.0, ge=0.05)
    depth: StrictInt | None = Field(default=None, ge=1)
    max_size: Size = Field(default=4 * 2**30, ge=2**16)
    force_push: Literal["hold", "accept"] = "hold"
    credentials: Credentials = Credentials()
    verify: Verify = Verify()
    webhook: SourceWebhook | None = None

    @property
    def origin(self) -> Origin | None:
        """Where a remote repository is; None where it is a directory."""
        return parse_origin(self.url) if is_remote(self.url) else None

    @property
    def followed(self) -> Ref:
        """What is followed of a remote repository."""
        return parse_ref(self.ref or DEFAULT_REF)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if is_remote(url):
            parse_origin(url)
        return url

    @field_validator("ref")
    @classmethod
    def _check_ref(cls, ref: str | None) -> str | None:
        if ref is not None:
            parse_ref(ref)
        return ref

    @model_validator(mode="after")
    def _check_whole(self) -> "OperatorSource":
        if self.webhook is not None and self.origin is None:
            raise ValueError("source.webhook is for a remote repository; source.url is a directory, which is watched")
        if self.origin is not None and self.origin.scheme == "ssh" and self.credentials.command is not None:
            raise ValueError("source.credentials.command is for https; for ssh write credentials.file, a private key")
        return self
