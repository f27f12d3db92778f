"""Which message ids of one sender were accepted lately, so that a repeated one is not delivered twice. Pure.

At most `_KEPT` ids are remembered; past that the oldest are forgotten first.
"""

from collections import OrderedDict
from typing import Literal

_KEPT = 10_000
_PENDING = float("inf")

Seen = Literal["new", "pending", "accepted"]


class SeenIds:
    """Ids with the time at which they may be forgotten, oldest first."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def begin(self, id_: str, now: float) -> Seen:
        """Whether the id is new; then it is `pending` until `accept` or `forget`."""
        until = self._until.get(id_)
        if until is not None:
            if until == _PENDING:
                return "pending"
            if until > now:
                return "accepted"
            del self._until[id_]
        self._until[id_] = _PENDING
        self._drop_oldest(now)
        return "new"

    def accept(self, id_: str, until: float) -> None:
        """Remember the id until then."""
        if id_ in self._until:
            self._until[id_] = until

    def forget(self, id_: str) -> None:
        """It was not accepted: the same id may come again. One that was accepted stays."""
        if self._until.get(id_) == _PENDING:
            del self._until[id_]

    def _drop_oldest(self, now: float) -> None:
        for _ in range(2):
            oldest = next(iter(self._until))
            until = self._until[oldest]
            if until == _PENDING or (until > now and len(self._until) <= _KEPT):
                return
            del self._until[oldest]
