"""The mailbox of one instance: bounded, leased to its reader, redelivered until acknowledged, emptied by time. Pure.

Messages stand in order of arrival. `take` leases what it returns; what is not acknowledged by its cursor before the
lease ends comes again, in its old place. Time comes in as `now`, in seconds of CLOCK_BOOTTIME.
"""

from collections.abc import Sequence
from itertools import takewhile

import msgspec

MAX_TAKE_BYTES = 4 * 2**20


class Letter(msgspec.Struct, gc=False):
    """One message as JSON, with its place in the mailbox; `is_order` where it is for an instance's daemon alone.

    A `notice` by that name is no work for anybody, and only the newest of its name matters.
    """

    body: bytes
    expires_at: float
    message_id: str
    sender: str
    position: int = 0
    is_order: bool = False
    notice: str = ""


class Batch(msgspec.Struct, frozen=True):
    """What a reader gets; acknowledging `cursor` acknowledges all that was handed out up to it.

    `expired` is what was dropped on the way, because its time was over.
    """

    letters: Sequence[Letter]
    cursor: str
    expired: Sequence[Letter] = ()


class Mailbox:
    """`key` is part of each cursor: one of another mailbox, or of an earlier router, acknowledges nothing."""

    __slots__ = (
        "_handed_out",
        "_has_notices",
        "_key",
        "_leased",
        "_next",
        "_ready",
        "_reserved",
        "_reserved_bytes",
        "size_bytes",
    )

    def __init__(self, key: str) -> None:
        self._key = key
        self._ready: list[Letter] = []
        self._leased: dict[int, tuple[float, Letter]] = {}
        self._next = 1
        self._handed_out = 0
        self._reserved = 0
        self._reserved_bytes = 0
        self._has_notices = False
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._leased)

    @property
    def calls(self) -> int:
        """Messages in it that somebody has to be there for: all but notices."""
        if not self._has_notices:
            return len(self)
        letters = [*self._ready, *(letter for _, letter in self._leased.values())]
        count = sum(not letter.notice for letter in letters)
        self._has_notices = count < len(letters)
        return count

    @property
    def waiting(self) -> int:
        """Messages in it and on their way to it."""
        return len(self._ready) + len(self._leased) + self._reserved

    def reserve(self, size_bytes: int, *, messages: int, bytes_: int) -> bool:
        """Keep a place until `release`; False when `messages` or `bytes_`, the bounds, would be passed."""
        if self.waiting >= messages or self.size_bytes + self._reserved_bytes + size_bytes > bytes_:
            return False
        self._reserved += 1
        self._reserved_bytes += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Give a reserved place back, to leave it free or to `put` something there."""
        self._reserved -= 1
        self._reserved_bytes -= size_bytes

    def put(self, letter: Letter) -> None:
        """Add at the end, a notice in place of older ones. Bounds are those of `reserve`."""
        if letter.notice:
            self._has_notices = True
            self._forget([old for old in self._ready if old.notice == letter.notice])
        letter.position = self._next
        self._next += 1
        self._ready.append(letter)
        self.size_bytes += len(letter.body)

    def take(self, now: float, *, count: int, lease_s: float) -> Batch:
        """Lease the next messages: at most `count`, and after the first no more than MAX_TAKE_BYTES."""
        self._return_unacknowledged(now)
        taken: list[Letter] = []
        expired: list[Letter] = []
        size = 0
        for letter in self._ready:
            if len(taken) == count:
                break
            if letter.expires_at <= now:
                expired.append(letter)
                self.size_bytes -= len(letter.body)
                continue
            size += len(letter.body)
            if taken and size > MAX_TAKE_BYTES:
                break
            taken.append(letter)
            self._leased[letter.position] = (now + lease_s, letter)
        del self._ready[: len(taken) + len(expired)]
        if taken:
            self._handed_out = max(self._handed_out, taken[-1].position)
        return Batch(taken, f"{self._key}.{self._handed_out}", expired)

    def acknowledge(self, cursor: str) -> bool:
        """Drop what was handed out up to `cursor`; a foreign cursor does nothing. False when it is no cursor at all."""
        key, _, number = cursor.partition(".")
        if not (number.isascii() and number.isdigit() and len(number) <= 18):
            return False
        if key != self._key:
            return True
        upto = min(int(number), self._handed_out)
        for position in [p for p in self._leased if p <= upto]:
            self.size_bytes -= len(self._leased.pop(position)[1].body)
        returned = list(takewhile(lambda letter: letter.position <= upto, self._ready))
        self.size_bytes -= sum(len(letter.body) for letter in returned)
        del self._ready[: len(returned)]
        return True

    def drain(self) -> list[Letter]:
        """Take out all that is in no reader's hands."""
        taken, self._ready = self._ready, []
        self.size_bytes -= sum(len(letter.body) for letter in taken)
        return taken

    def next_return(self) -> float | None:
        """When the first lease ends, or None."""
        return min((deadline for deadline, _ in self._leased.values()), default=None)

    def purge(self, now: float) -> list[Letter]:
        """Drop what has expired and is not in a reader's hands; returns it."""
        self._return_unacknowledged(now)
        gone = [letter for letter in self._ready if letter.expires_at <= now]
        self._forget(gone)
        return gone

    def _forget(self, gone: Sequence[Letter]) -> None:
        if gone:
            positions = {letter.position for letter in gone}
            self._ready = [letter for letter in self._ready if letter.position not in positions]
            self.size_bytes -= sum(len(letter.body) for letter in gone)

    def _return_unacknowledged(self, now: float) -> None:
        due = [position for position, (deadline, _) in self._leased.items() if deadline <= now]
        if due:
            back = [self._leased.pop(position)[1] for position in due]
            self._ready = sorted([*back, *self._ready], key=lambda letter: letter.position)
