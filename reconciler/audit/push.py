"""Sending the notes of a fleet to another repository, in a thread of its own: no pass waits for a network."""

import threading

from reconciler.errors import SourceError
from reconciler.source.notes import Notes
from reconciler.source.transfer import Remote

AGAIN_S = 60.0
_END_S = 10.0


class Push:
    """Pushes at start, whenever it is rung, and again after a failure. What `fault` says stays until one succeeds."""

    def __init__(self, notes: Notes, remote: Remote, again_s: float = AGAIN_S) -> None:
        self._notes, self._remote, self._again_s = notes, remote, again_s
        self._wanted, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="push-notes", daemon=True)
        self.fault = ""

    def start(self) -> None:
        self._wanted.set()
        self._thread.start()

    def ring(self) -> None:
        """There is something new. Returns at once."""
        self._wanted.set()

    def close(self) -> None:
        """Send what is wanted still, but do not wait for long."""
        self._stop.set()
        self._wanted.set()
        self._thread.join(_END_S)
        self._remote.stop()

    def _run(self) -> None:
        while True:
            self._wanted.wait(self._again_s if self.fault else None)
            self._wanted.clear()
            try:
                self._notes.push(self._remote)
                self.fault = ""
            except SourceError as exc:
                self.fault = f"{exc}: {exc.__cause__}" if exc.__cause__ else str(exc)
            if self._stop.is_set():
                return
