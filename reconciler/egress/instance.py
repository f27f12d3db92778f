"""The instances that may come out, with what is held of each in memory. Nothing here is durable."""

from collections import Counter

import msgspec

from reconciler.core.exposure import highest
from reconciler.egress.config import InstanceEntry
from reconciler.router.registry import Token


class Instance:
    """One registered instance. `under_way` counts its requests, `denied` those that were refused, by code."""

    def __init__(self, name: str, entry: InstanceEntry) -> None:
        self.name = name
        self.entry = entry
        self.tokens = _read_tokens(entry)
        self.under_way = 0
        self.denied: Counter[str] = Counter()

    def change(self, entry: InstanceEntry) -> None:
        """Take over an entry.

        While a token stays the instance does too, and with it what it has heard: its sensitivity never goes down.
        """
        tokens = _read_tokens(entry)
        if {t.sha256 for t in tokens} & {t.sha256 for t in self.tokens}:
            heard = highest((self.entry.sensitivity, entry.sensitivity))
            entry = msgspec.structs.replace(entry, sensitivity=heard)
        self.entry, self.tokens = entry, tokens

    def find_run(self, named: bytes) -> tuple[str | None, str | None]:
        """The run and task that a request is for: the one that it names, if the instance has it, or its only one."""
        work = self.entry.work
        run = named.decode("ascii", "replace")
        for known in work if len(work) != 1 else ():
            if known.run == run:
                return known.run, known.task
        return (work[0].run, work[0].task) if len(work) == 1 else (None, None)


def _read_tokens(entry: InstanceEntry) -> tuple[Token, ...]:
    return tuple(Token(bytes.fromhex(t.sha256), t.expires_at) for t in entry.tokens)
