"""Brings notices to one sink, in order, in a thread of its own: whoever offers one never waits.

A sink that fails is tried again later and later; after a few failures in a row it counts as away, and is asked only
now and then until it takes something.
"""

import json
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.alerts.sink import Sink
from reconciler.core.backoff import backoff_s

_LOG = logging.getLogger("reconciler.alerts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """`failures` in a row, and the sink is away: then it is tried every `half_open_s`. What will never be taken is
    dropped after as many tries. No more than `most` notices wait; the oldest go first."""

    base_s: float = 0.5
    failures: int = 5
    half_open_s: float = 60.0
    most: int = 1000


@dataclass(frozen=True, slots=True)
class _Item:
    seq: int | None
    document: bytes


class Courier:
    """One sink with what waits for it. `on_done` is called with the `seq` of what arrived, or was given up.

    Every `heartbeat_s`, if any, the sink gets a word, as long as `is_alive` says so.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        on_done: Callable[[int], None] = lambda _seq: None,
        patience: Patience = Patience(),
        heartbeat_s: float | None = None,
        is_alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self._sink, self._on_done, self._patience = sink, on_done, patience
        self._heartbeat_s, self._is_alive = heartbeat_s, is_alive
        self._waiting: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._failures = 0
        self._fault = ""
        self._beat_at = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"alerts-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, seq: int | None, document: str) -> None:
        """Have it delivered."""
        with self._changed:
            self._waiting.append(_Item(seq, document.encode()))
            overflow = self._waiting.popleft() if len(self._waiting) > self._patience.most else None
            self._changed.notify_all()
        if overflow is not None:
            _LOG.error("sink %s: too many notices wait; the oldest is given up", self.name)
            self._settle(overflow)

    @property
    def fault(self) -> str:
        """Why nothing arrives any more; empty while the sink is not away."""
        with self._changed:
            if self._failures < self._patience.failures:
                return ""
            return self._fault

    def drain(self, timeout_s: float) -> None:
        """Wait until nothing waits, or the sink fails."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._failures, timeout_s)

    def close(self, timeout_s: float = 1.0) -> None:
        """End after the try under way, and wait for that; what is left is kept by whoever offered it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (item := self._next()) is not None:
            try:
                sent = self._sink.send(item.document)
            except Exception as exc:  # noqa: BLE001 - the rim of the thread: a sink must not end it
                _LOG.error("sink %s: a fault of the hub's own (%s)", self.name, type(exc).__name__)
                self._fail(item, f"a fault of the hub's own ({type(exc).__name__})", is_final=False)
                continue
            if sent.fault:
                self._fail(item, sent.fault, is_final=sent.is_final)
            else:
                self._arrive(item)

    def _next(self) -> _Item | None:
        """What to send now; waits for it. None at the end."""
        with self._changed:
            while not self._is_closed:
                if self._waiting:
                    return self._waiting[0]
                left_s = self._beat_at + self._heartbeat_s - time.monotonic() if self._heartbeat_s else None
                if left_s is not None and left_s <= 0:
                    self._beat_at = time.monotonic()
                    if self._is_alive():
                        return _beat()
                    continue
                self._changed.wait(left_s)
        return None

    def _arrive(self, item: _Item) -> None:
        with self._changed:
            self._failures, self._fault = 0, ""
            self._beat_at = time.monotonic()
            is_waiting = bool(self._waiting) and self._waiting[0] is item
            if is_waiting:
                self._waiting.popleft()
            self._changed.notify_all()
        if is_waiting:
            self._settle(item)

    def _fail(self, item: _Item, fault: str, *, is_final: bool) -> None:
        """Wait for the next try. What is not the head of the queue any more was given up, or is a heartbeat."""
        patience = self._patience
        with self._changed:
            self._failures, self._fault = self._failures + 1, fault
            is_away = self._failures >= patience.failures
            is_waiting = bool(self._waiting) and self._waiting[0] is item
            is_given_up = is_waiting and is_final and is_away
            if is_given_up:
                self._waiting.popleft()
                _LOG.error("sink %s: a notice is given up: %s", self.name, fault)
            if self._failures == patience.failures:
                _LOG.error("sink %s is away: %s", self.name, fault)
            wait_s = patience.half_open_s if is_away else backoff_s(self._failures, base_s=patience.base_s)
            wait_s *= random.uniform(0.75, 1.0)  # noqa: S311 - jitter, not a secret
            self._changed.notify_all()
        if is_given_up:
            self._settle(item)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, wait_s)

    def _settle(self, item: _Item) -> None:
        if item.seq is not None:
            self._on_done(item.seq)


def _beat() -> _Item:
    said = {"id": f"heartbeat-{time.time_ns()}", "status": "alive", "type": "Heartbeat", "subject": "hub"}
    return _Item(None, json.dumps(said).encode())
