"""`RemoteRepository`: desired state from a repository elsewhere, read from a mirror of it.

A thread of its own fetches: at start, at each poll (give or take a tenth, so that many hubs don't ask at once), and
when told to `refresh`. Nobody waits for it but the first `head` of a mirror that has nothing yet. What was fetched is
read as any local repository is, by object id. The mirror's branch is a file that the loop watches, so that news wake
it.

A remote that cannot be read is `Unavailable`, and asked again soon, then ever more rarely. A mirror that cannot be read
while the remote can is made anew, once for each commit.
"""

import atexit
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from reconciler.core.reading import Ok, Reading
from reconciler.errors import SourceError
from reconciler.ports import Entry, Revision, SetAside, Snapshot
from reconciler.settings_source import OperatorSource
from reconciler.source.mirror import FOLLOWED, Mirror
from reconciler.source.repository import LocalRepository
from reconciler.source.signed import Signatures
from reconciler.source.transfer import Remote
from reconciler.source.unavailable import from_error, unavailable

JITTER = 0.1
FIRST_WAIT_S = 20.0
SLOW_S = 90.0
"""A remote that takes longer than this to answer is away, though the answer is still waited for."""
GAP_S = 1.0
_RETRY_S = 2.0
_END_S = 10.0


def open_remote(settings: OperatorSource, mirror: str, signatures: Signatures | None) -> "RemoteRepository":
    """Nothing is asked before the first `head`. `mirror` is a path."""
    return RemoteRepository(open_mirror(settings, mirror), settings.poll, signatures)


def open_mirror(settings: OperatorSource, path: str) -> Mirror:
    """Changes nothing. Raises SourceError for a repository that is a directory of this host."""
    if settings.origin is None:
        raise SourceError(f"opening {settings.url}: it is a directory of this host")
    remote = Remote(origin=settings.origin, credentials=settings.credentials, max_bytes=settings.max_size)
    return Mirror(path=path, remote=remote, ref=settings.followed, depth=settings.depth)


class RemoteRepository:
    """A `Source`. Its methods may be called from several threads; `close` ends a fetch that is under way."""

    def __init__(
        self, mirror: Mirror, poll_s: float, signatures: Signatures | None = None, *, gap_s: float = GAP_S
    ) -> None:
        """`gap_s`: between two fetches at least, however often it is told to `refresh`."""
        self._mirror, self._poll_s, self._gap_s = mirror, poll_s, gap_s
        self._local = LocalRepository(mirror.path, FOLLOWED, signatures=signatures)
        self._is_verified = signatures is not None
        self._swap = threading.RLock()
        self._wanted, self._stop, self._looked = threading.Event(), threading.Event(), threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: SourceError | None = None
        self._failures = 0
        self._began_at: float | None = None
        self._is_suspect = False
        self._rebuilt_for: str | None = None
        self._ring: Callable[[], None] = lambda: None
        self._commit = ""

    def close(self) -> None:
        """End the thread and what it waits for."""
        self._stop.set()
        self._wanted.set()
        self._mirror.remote.stop()
        if self._thread is not None:
            self._thread.join(_END_S)
            atexit.unregister(self._mirror.remote.stop)
        self._local.close()

    @property
    def is_following(self) -> bool:
        """Whether it was asked at all: nothing is fetched before the first `head`."""
        return self._thread is not None

    def refresh(self) -> None:
        """Ask the remote now; returns at once."""
        self._wanted.set()

    def notify(self, ring: Callable[[], None]) -> None:
        """That it is away, back, or has news; these are told by the watched file too, but later."""
        self._ring = ring

    # --- reading the mirror -----------------------------------------------------------------------

    def head(self) -> Reading[Revision]:
        """The commit that is followed, as the last fetch found it."""
        self._await_first()
        if (failure := self._failure) is not None:
            return from_error(failure)
        began_at = self._began_at
        if not self._looked.is_set() or (began_at is not None and time.monotonic() - began_at > SLOW_S):
            return unavailable(f"{self._mirror.remote.origin.url} has not answered yet")
        with self._swap:
            head = self._local.head()
        if not isinstance(head, Ok):
            self._suspect()
        return head

    def snapshot(self, revision: str) -> Reading[Snapshot]:
        """See `Source`. A tree that turns out to be damaged is fetched anew."""
        self._await_first()
        with self._swap:
            found = self._local.snapshot(revision)
        return Ok(_Watched(found.value, self._noticing)) if isinstance(found, Ok) else found

    def is_ancestor(self, older: str, newer: str) -> bool:
        with self._noticing():
            return self._local.is_ancestor(older, newer)

    def unverified(self, since: str, revision: str) -> str | None:
        with self._noticing():
            tag = self._mirror.tag() if self._is_verified else None
            return self._local.unverified(since, revision, tag)

    def checkout(self, revision: str, target: str, *, history: bool) -> None:
        self._await_first()
        with self._noticing():
            self._local.checkout(revision, target, history=history)

    def watch_paths(self) -> Sequence[str]:
        branches = os.path.join(self._mirror.path, "refs", "heads")
        return [branches] if os.path.isdir(branches) else []

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except SourceError:
            self._suspect()
            raise

    def _suspect(self) -> None:
        """Something of the mirror could not be read; the next look finds out whether to make it anew."""
        self._is_suspect = True
        self._wanted.set()

    # --- fetching ---------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stop.is_set():
                # A git process has a session of its own, and would outlive an interrupted command.
                atexit.register(self._mirror.remote.stop)
                self._thread = threading.Thread(target=self._follow, name="source", daemon=True)
                self._thread.start()

    def _await_first(self) -> None:
        """Until the remote was asked once, or for a while where the mirror has something already."""
        self._start()
        if not self._looked.is_set():
            self._looked.wait(FIRST_WAIT_S if self._mirror.is_there else None)

    def _follow(self) -> None:
        while not self._stop.is_set():
            self._wanted.clear()
            before = (self._commit, str(self._failure))
            self._began_at = time.monotonic()
            try:
                if self._failures or not self._looked.is_set():
                    self._mirror.tidy()
                self._look()
                self._failure, self._failures = None, 0
            except SourceError as exc:
                self._failure, self._failures = exc, self._failures + 1
            except Exception as exc:
                logging.getLogger("reconciler").exception("following the repository failed")
                self._failure, self._failures = SourceError(f"following the repository: {exc}"), self._failures + 1
            self._began_at = None
            self._looked.set()
            if (self._commit, str(self._failure)) != before:
                self._ring()
            self._stop.wait(self._gap_s)
            self._wanted.wait(self._pause_s())

    def _look(self) -> None:
        if self._is_suspect and self._mend():
            self._is_suspect = False
            return
        try:
            self._commit = self._mirror.update()
        except SourceError:
            if self._mirror.is_there and self._mend():
                return
            raise

    def _mend(self) -> bool:
        """Make the mirror anew, unless the remote is away, or that was done for this commit and did not help.

        Raises SourceError.
        """
        followed = self._mirror.followed() or "none"
        if followed == self._rebuilt_for or not self._mirror.is_offered():
            return False
        self._rebuilt_for = followed
        logging.getLogger("reconciler").warning("the mirror %s cannot be used; it is made anew", self._mirror.path)
        try:
            self._commit = self._mirror.rebuild(self._swap)
        except SourceError:
            if not self._mirror.is_offered():
                self._rebuilt_for = None
            raise
        return True

    def _pause_s(self) -> float:
        wait_s = min(self._poll_s, _RETRY_S * 2 ** min(self._failures - 1, 16)) if self._failures else self._poll_s
        return wait_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - to spread load, not to hide anything


class _Watched:
    """A snapshot whose failures are noticed."""

    def __init__(self, inner: Snapshot, noticing: Callable[[], AbstractContextManager[None]]) -> None:
        self._inner, self._noticing = inner, noticing

    @property
    def revision(self) -> Revision:
        return self._inner.revision

    def entries(self, folder: str) -> Sequence[Entry]:
        with self._noticing():
            return self._inner.entries(folder)

    def prepare(self, folders: Sequence[str]) -> None:
        with self._noticing():
            self._inner.prepare(folders)

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        with self._noticing():
            return self._inner.read(entries)

    def set_aside(self, folder: str) -> Sequence[SetAside]:
        with self._noticing():
            return self._inner.set_aside(folder)

    def close(self) -> None:
        self._inner.close()
