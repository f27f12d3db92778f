"""What a sink is: one document (JSON with an `id`) comes in, and goes out to whoever shall know."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What came of it: `fault` is empty where it arrived. `is_final`: the same document will never be taken."""

    fault: str = ""
    is_final: bool = False


class Sink(Protocol):
    def send(self, document: bytes) -> Sent:
        """One try, within a deadline of its own. A fault never holds a secret, nor the address."""
        ...
