"""The words for secrets: a value that never shows itself, a name, and what may be wrong with a secret's file."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from reconciler.core.names import check_name

TOKEN_FILE = "agent-token"  # noqa: S105 - a file name
MAX_SECRET_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SecretValue:
    """The bytes of a secret. They are in no `repr`, so that no log, error or failed assertion can show them."""

    content: bytes = field(repr=False)


class SecretFault(StrEnum):
    """How the file of a secret in an instance's directory differs from what the provider says."""

    CHANGED = "changed"
    WITHDRAWN = "withdrawn"
    MISSING = "missing"
    UNREADABLE = "unreadable"


def _check_name(name: str) -> str:
    """What is no name may be a value that was put there by mistake: it is not repeated."""
    try:
        check_name(name)
    except ValueError:
        raise ValueError("is not the name of a secret: use a-z, 0-9 and '-'; values are never in git") from None
    if name == TOKEN_FILE:
        raise ValueError(f"{name!r} is the name of the hub's own token; choose another")
    return name


def _check_list(names: object) -> object:
    if not isinstance(names, list | tuple):
        raise ValueError("is not a list of names; write secrets: [docs-deploy-key]; values are never in git")
    return names


SecretName = Annotated[str, AfterValidator(_check_name)]
"""A file name below `/run/secrets`; also what the operator's provider is asked for."""
SecretNames = Annotated[tuple[SecretName, ...], BeforeValidator(_check_list)]
