"""How many messages of each agent came to what: counted for control and its metrics, in memory, from one start on.

An agent that is no longer in the configuration keeps its tally; names are few, and a life of the router ends.
"""

from collections import defaultdict

import msgspec

from reconciler.router.message import Deny

_DENIED = frozenset({"forbidden", "unknown_or_forbidden_recipient"})
_INVALID = frozenset({"invalid_envelope", "invalid_payload", "too_large"})


class Tally(msgspec.Struct, gc=False):
    """`limited` are messages over the rate, `floods` the alarms that followed from them."""

    accepted: int = 0
    denied: int = 0
    invalid: int = 0
    limited: int = 0
    forged: int = 0
    floods: int = 0

    def note(self, denied: Deny) -> None:
        """One denial. What is not the sender's doing is not counted, nor is a token that is not its own."""
        if denied.is_forgery:
            self.forged += 1
        elif denied.code in _DENIED:
            self.denied += 1
        elif denied.code in _INVALID:
            self.invalid += 1
        elif denied.code == "rate_limited":
            self.limited += 1


class Tallies(defaultdict[str, Tally]):
    """By agent; one that is asked for begins with nothing."""

    def __init__(self) -> None:
        super().__init__(Tally)
