"""Who asks something of the operator plane, and what that caller may do there. Pure.

A way in proves a subject: the socket by the peer's credentials (`uid:0`), the port by a token (`token:ada`).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from starlette.requests import Request


class RefusedRequest(Exception):  # noqa: N818 - an answer to the caller, not an error of ours
    """The request cannot be carried out; the message says why and what to do."""

    def __init__(self, message: str, status: int = 409, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class Right(StrEnum):
    """`read`: the fleet as it is, and its events; `act`: change it; `audit`: the proof and account of its log."""

    READ = "read"
    ACT = "act"
    AUDIT = "audit"


class Role(StrEnum):
    """What a token may be for; `owner` is whoever may open the socket, and no token's."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    OWNER = "owner"


RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.VIEWER: frozenset({Right.READ}),
    Role.OPERATOR: frozenset({Right.READ, Right.ACT}),
    Role.AUDITOR: frozenset({Right.READ, Right.AUDIT}),
    Role.OWNER: frozenset(Right),
}


@dataclass(frozen=True, slots=True)
class Access:
    """A proven caller."""

    subject: str
    role: Role


Authenticate = Callable[[Request], Access]
"""Raises RefusedRequest where nobody is proven."""


def by_peer(request: Request) -> Access:
    """By what the kernel says of the socket's other end. Raises RefusedRequest for users that do not own the hub."""
    subject = request.client.host if request.client else ""
    if subject not in ("uid:0", f"uid:{os.geteuid()}"):
        raise RefusedRequest("this socket is for root and for the user that runs the hub", status=403)
    return Access(subject, Role.OWNER)


def require(access: Access, right: Right) -> None:
    """Raises RefusedRequest where the caller's role does not have the right."""
    if right not in RIGHTS[access.role]:
        able = " or ".join(role for role in Role if right in RIGHTS[role] and role != Role.OWNER)
        message = f"{access.subject} is {access.role}, and this needs {able}; ask whoever gives out tokens"
        raise RefusedRequest(message, status=403)
