"""What came of applying one change."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Done; `note` says what is worth knowing, `before` and `after` what the record should keep."""

    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Not done. `retryable` False means: the same input will fail again, wait for another one.

    `transient` means: something around us did not answer, is missing, or in the way; however often, that says nothing
    of the input.
    """

    reason: str
    retryable: bool = True
    transient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Not tried: backing off, stalled, or waiting for something this pass changed."""

    reason: str


Outcome: TypeAlias = Applied | Failed | Skipped
