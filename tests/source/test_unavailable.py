"""The two ways in which a source can be unavailable."""

from reconciler.core.reading import Unavailable
from reconciler.errors import SourceError
from reconciler.source.unavailable import (
    SourceCondition,
    condition_of,
    from_error,
    unavailable,
    unsettled,
)


def test_the_reason_tells_a_person_in_the_middle_of_something_from_a_fault() -> None:
    assert condition_of(unsettled("a rebase")) is SourceCondition.UNSETTLED
    assert condition_of(unavailable("SourceUnsettled: not really")) is SourceCondition.UNAVAILABLE
    assert condition_of(Unavailable(reason="anything else")) is SourceCondition.UNAVAILABLE


def test_an_error_keeps_its_cause() -> None:
    try:
        raise SourceError("reading /x") from OSError(13, "Permission denied")
    except SourceError as error:
        reading = from_error(error)
    assert reading.reason == "SourceUnavailable: reading /x: [Errno 13] Permission denied"
