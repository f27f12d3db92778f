"""The heartbeat.

Tells the hub which attempts are held here, and ends those that its answer cancels.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from reconciler.agentd.assignment import Ref
from reconciler.agentd.hub import Hub, HubGoneError
from reconciler.agentd.log import Log
from reconciler.agentd.message import build_heartbeat
from reconciler.agentd.runs import Runs


class Heartbeat:
    """`run` is one thread's. A lost beat is not sent again: the next one says more."""

    def __init__(self, hub: Hub, runs: Runs, log: Log, *, every_s: float, ready: threading.Event) -> None:
        self._hub = hub
        self._runs = runs
        self._log = log
        self._every_s = every_s
        self._ready = ready
        self._last_trouble = ""

    def run(self) -> None:
        """Beat from the hello on, for ever."""
        self._ready.wait()
        pause = threading.Event()
        while True:
            pause.wait(max(self._every_s, self._beat()))

    def _beat(self) -> float:
        """One beat; the seconds that the hub asks to wait."""
        try:
            answer = self._hub.send(build_heartbeat(self._runs.held()))
        except HubGoneError as error:
            self._note_trouble(str(error))
            return 0.0
        self._note_trouble("" if answer.is_ok else answer.explanation)
        cancel = answer.body.get("cancel")
        if answer.is_ok and isinstance(cancel, list):
            for entry in cancel:
                self._cancel(entry)
        return answer.retry_after_s

    def _cancel(self, entry: object) -> None:
        fields = entry if isinstance(entry, Mapping) else {}
        task, generation, run = fields.get("task"), fields.get("generation"), fields.get("run") or ""
        if isinstance(task, str) and isinstance(generation, int) and isinstance(run, str):
            self._runs.cancel(Ref(task=task, run=run, generation=generation))
        else:
            self._log.error("a cancellation that names no task was dropped")

    def _note_trouble(self, trouble: str) -> None:
        if trouble and trouble != self._last_trouble:
            self._log.warning("a heartbeat was lost", error=trouble)
        self._last_trouble = trouble
