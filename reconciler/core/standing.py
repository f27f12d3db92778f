"""How a revision stands with a fleet, in the words of a commit status."""

from enum import StrEnum


class Standing(StrEnum):
    """`superseded`: another one came before it was seen how this one comes out."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    SUPERSEDED = "superseded"
