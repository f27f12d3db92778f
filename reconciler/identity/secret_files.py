"""Secrets on their way from the provider into the instances' directories, and what is not as the provider says.

Providers are asked in the background, so that one that hangs delays no pass. What they said is kept in memory until it
is older than the caller accepts.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.core.secret import SecretFault, SecretValue
from reconciler.identity.token import give_to
from reconciler.ports import SecretProvider

ASKING_AT_ONCE = 4
PATIENCE_S = 2.0
"""How long the first answer about a secret is waited for; what takes longer is there in a later pass."""
AGAIN_S = 2.0
"""How soon the provider is asked again after it had no value."""

ABSENT = "its provider does not have it; the operator has to add it there, or git take it off the agent"
_NOT_YET = Unavailable(reason="its provider has not answered yet")


@dataclass(frozen=True, slots=True)
class _Known:
    reading: Reading[SecretValue]
    at_s: float

    def is_good(self, now_s: float, max_age_s: float, again_s: float) -> bool:
        return now_s - self.at_s < (max_age_s if isinstance(self.reading, Ok) else min(again_s, max_age_s))


@dataclass(frozen=True, slots=True)
class _Look:
    faults: Mapping[str, SecretFault]
    names: Sequence[str]
    at_s: float
    change: int


class Secrets:
    """What the provider says, and the files made of it. Safe for threads.

    `on_change` is called, in any thread, when the provider says something else of a secret than before.
    """

    def __init__(
        self,
        provider: SecretProvider,
        *,
        now_s: Callable[[], float] = time.monotonic,
        in_background: bool = True,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._provider, self._now_s, self._in_background = provider, now_s, in_background
        self.on_change = on_change
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._asked: dict[str, threading.Event] = {}
        self._waiting: deque[str] = deque()
        self._workers = 0
        self._hangs = False
        self._looks: dict[Path, _Look] = {}
        self._changes = 0

    def get(self, name: str, max_age_s: float) -> Reading[SecretValue]:
        """What the provider said last; it is asked again where that is older than `max_age_s`.

        Its first answer is waited for, but not long, and not at all while it hangs.
        """
        known = self._ask(name, max_age_s)
        if known is not None and isinstance(known.reading, Ok):
            return known.reading
        asked = self._asked.get(name)
        if asked is not None and not self._hangs and not asked.wait(PATIENCE_S):
            self._hangs = True
        known = self._known.get(name)
        return known.reading if known is not None else _NOT_YET

    def lacking(self, max_age_s: float) -> Mapping[str, str]:
        """Why there is no value, by name, for secrets that somebody wanted. Never waits."""
        with self._lock:
            lacking = [name for name, known in self._known.items() if not isinstance(known.reading, Ok)]
        out: dict[str, str] = {}
        for name in lacking:
            match self._ask(name, max_age_s, max_age_s):
                case _Known(reading=Absent()):
                    out[name] = ABSENT
                case _Known(reading=Unavailable(reason=reason)):
                    out[name] = reason
        return out

    def keep(self, names: Collection[str]) -> None:
        """Forget all other values; nobody wants them any more."""
        with self._lock:
            for name in self._known.keys() - names:
                del self._known[name]

    def look(self, folder: Path, names: Sequence[str], max_age_s: float) -> Mapping[str, SecretFault]:
        """Which of these secrets' files in `folder` are not as the provider says. Never waits.

        A look is remembered until it is older than `max_age_s`, or a value has changed.
        """
        look = self._looks.get(folder)
        now_s = self._now_s()
        if look and look.names == names and look.change == self._changes and now_s - look.at_s < max_age_s:
            return look.faults
        change = self._changes
        faults = {name: fault for name in names if (fault := self._fault(folder / name, max_age_s)) is not None}
        self._looks[folder] = _Look(faults, tuple(names), now_s, change)
        return faults

    def write(self, folder: Path, names: Sequence[str], uid: int, max_age_s: float) -> None:
        """Make the files of these secrets as the provider says; one that it cannot read now stays. Raises OSError."""
        self._looks.pop(folder, None)
        for name in names:
            match self.get(name, max_age_s):
                case Ok(value=value):
                    if _content(folder / name) != value.content:
                        _put(folder / name, value.content, uid)
                case Absent():
                    (folder / name).unlink(missing_ok=True)
                case _:
                    pass

    def _ask(self, name: str, max_age_s: float, again_s: float = AGAIN_S) -> _Known | None:
        """What is known; the provider is asked unless that is good enough, or it is being asked."""
        with self._lock:
            known = self._known.get(name)
            if name in self._asked or (known is not None and known.is_good(self._now_s(), max_age_s, again_s)):
                return known
            self._asked[name] = threading.Event()
            self._waiting.append(name)
            needs_worker = self._workers < ASKING_AT_ONCE
            self._workers += needs_worker
        if not self._in_background:
            self._work()
        elif needs_worker:
            # Nobody waits for it at the end: a provider may hang for longer than a person who pressed Ctrl-C.
            threading.Thread(target=self._work, name="secrets", daemon=True).start()
        return self._known.get(name)

    def _work(self) -> None:
        while (name := self._next()) is not None:
            reading: Reading[SecretValue] = Unavailable(reason="its provider failed")
            try:
                reading = self._provider.read(name)
            finally:
                self._learn(name, reading)

    def _next(self) -> str | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._workers -= 1
            return None

    def _learn(self, name: str, reading: Reading[SecretValue]) -> None:
        with self._lock:
            before = self._known.get(name)
            if before is not None and isinstance(before.reading, Ok) and isinstance(reading, Unavailable):
                # What cannot be read now is what it was, for all we know.
                reading = before.reading
            else:
                self._hangs = self._hangs and isinstance(reading, Unavailable)
            self._known[name] = _Known(reading, self._now_s())
            has_changed = before is None or before.reading != reading
            self._changes += has_changed
            asked = self._asked.pop(name)
        asked.set()
        if has_changed:
            self.on_change()

    def _fault(self, file: Path, max_age_s: float) -> SecretFault | None:
        known = self._ask(file.name, max_age_s)
        content = _content(file)
        match known.reading if known is not None else _NOT_YET:
            case Ok(value=value):
                return None if content == value.content else SecretFault.CHANGED
            case Absent():
                return SecretFault.MISSING if content is None else SecretFault.WITHDRAWN
            case _:
                return SecretFault.UNREADABLE if content is None else None


def remove(folder: Path, names: Sequence[str]) -> None:
    """Remove the files of these secrets. Raises OSError."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _put(file: Path, content: bytes, uid: int) -> None:
    """By atomic rename, for its user only: whoever has it open reads the old value to its end."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
    give_to(temporary, uid)
    temporary.rename(file)
