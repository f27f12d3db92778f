"""How often in a row the same thing was put right: where it never stays so, somebody does not agree with us.

Replacing a container for ever helps nobody, so that a unit stalls after as many repairs as after failures. In memory: a
new hub counts anew. A repair counts where the one before was not long ago.
"""

from reconciler.core.change import Action, Cause, Change

WINDOW_S = 600.0


def is_repair(change: Change) -> bool:
    """Whether it puts back what differs from the record. What is gone or does not run is made anew every time."""
    return change.cause is Cause.DRIFT and bool(change.fields) and change.action in (Action.REPLACE, Action.UPDATE)


class Repairs:
    """Counts by unit; different units may be counted at once."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float, int]] = {}

    def count(self, change: Change, subject: str, now_s: float) -> int:
        """How often in a row it was done, this time included. With another `subject` it begins anew."""
        known, at_s, times = self._last.get(change.unit, ("", 0.0, 0))
        times = times + 1 if known == subject and now_s - at_s <= WINDOW_S else 1
        self._last[change.unit] = (subject, now_s, times)
        return times
