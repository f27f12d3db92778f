"""The answer to "what is there?": a value, nothing, or "could not look". Unreadable is never empty."""

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True)
class Ok(Generic[T]):
    """It was read, and this is it."""

    value: T


@dataclass(frozen=True, slots=True)
class Absent:
    """It was read, and it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """It could not be read; nothing may be concluded, and nothing destructive planned."""

    reason: str


Reading: TypeAlias = Ok[T] | Absent | Unavailable
