"""The two ways in which a source can be unavailable, as the first word of the reason.

`SourceUnsettled` is a state that a person is in the middle of (a rebase, a detached HEAD) and will
leave; `SourceUnavailable` is everything else. Both are names of conditions.
"""

from enum import StrEnum

from reconciler.core.reading import Unavailable
from reconciler.errors import SourceError


class SourceCondition(StrEnum):
    """The condition to report for an `Unavailable` of a source."""

    UNSETTLED = "SourceUnsettled"
    UNAVAILABLE = "SourceUnavailable"


def unsettled(text: str) -> Unavailable:
    """`text` says what is going on where, and how to end it."""
    return Unavailable(reason=f"{SourceCondition.UNSETTLED}: {text}")


def unavailable(text: str) -> Unavailable:
    """`text` says what could not be read and what to do."""
    return Unavailable(reason=f"{SourceCondition.UNAVAILABLE}: {text}")


def from_error(error: SourceError) -> Unavailable:
    """With the cause, which the message leaves out."""
    return unavailable(f"{error}: {error.__cause__}" if error.__cause__ else str(error))


def condition_of(reading: Unavailable) -> SourceCondition:
    """Which condition a source's `Unavailable` is."""
    is_unsettled = reading.reason.startswith(f"{SourceCondition.UNSETTLED}: ")
    return SourceCondition.UNSETTLED if is_unsettled else SourceCondition.UNAVAILABLE
