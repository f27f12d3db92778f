"""The outbox: events on their way to the hub, in order, each until the hub has settled it.

A message counts as settled when the hub accepted it (or had it already), or refused it for good.
Outages, overload and a router that restarts are waited out with growing pauses, under the same
message id.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.agentd.hub import Answer, Backoff, Connection, Hub, HubGoneError
from reconciler.agentd.log import Log
from reconciler.agentd.message import Message

_CONTENT_CODES = frozenset({"too_large", "invalid_payload", "invalid_envelope"})
_HURRIED_PAUSE_S = 0.25
_KEEP_S = 1.0
"""How long a connection is kept on which nothing is sent: it costs the router memory."""


@dataclass(frozen=True)
class Parcel:
    """One message and what becomes of it.

    `on_settled` is told the code of a refusal, or "". `fallback` makes the smaller message to send
    when the hub refuses this one for what is in it. A `droppable` one is tried once; only the
    latest per task waits.
    """

    message: Message
    task: str
    on_settled: Callable[[str], None]
    fallback: Callable[[str], Message] | None = None
    droppable: bool = False


class Outbox:
    """`put` and `wait_empty` from any thread; `run` is the sending thread's."""

    def __init__(self, hub: Hub, log: Log) -> None:
        self._hub = hub
        self._log = log
        self._changed = threading.Condition()
        self._waiting: deque[Parcel] = deque()
        self._is_hurried = threading.Event()
        self._connection: Connection | None = None

    def put(self, parcel: Parcel) -> None:
        with self._changed:
            if parcel.droppable:
                self._waiting = deque(p for p in self._waiting if not (p.droppable and p.task == parcel.task))
            self._waiting.append(parcel)
            self._changed.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Whether everything was settled within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def hurry(self) -> None:
        """The daemon is about to end: try again now, and then without growing pauses."""
        self._is_hurried.set()

    def run(self) -> None:
        """Send what is put in, for ever."""
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._waiting), _KEEP_S if self._connection else None):
                    self._hang_up()
                    continue
                parcel = self._waiting[0]
            code = self._deliver(parcel)
            parcel.on_settled(code)
            with self._changed:
                if self._waiting and self._waiting[0] is parcel:
                    self._waiting.popleft()
                self._changed.notify_all()

    def _deliver(self, parcel: Parcel) -> str:
        """Try until it is settled; the code of the refusal, or "" ."""
        message, may_fall_back, backoff = parcel.message, True, Backoff()
        while True:
            answer = self._try(message, parcel.task)
            if answer is not None and (answer.is_ok or answer.code == "duplicate"):
                return ""
            if answer is None or answer.is_passing:
                self._pause(backoff, answer.retry_after_s if answer else 0.0)
                if parcel.droppable:
                    return ""
                continue
            self._log.warning(f"the hub refused {message.type}", task=parcel.task, answer=answer.explanation)
            if parcel.fallback is None or not may_fall_back or not _is_about_content(answer):
                return answer.code or str(answer.status)
            message, may_fall_back = parcel.fallback(answer.explanation), False

    def _pause(self, backoff: Backoff, retry_after_s: float) -> None:
        pause_s = backoff.next_s()
        if self._is_hurried.is_set():
            time.sleep(min(pause_s, _HURRIED_PAUSE_S) + retry_after_s)
        else:
            self._is_hurried.wait(pause_s + retry_after_s)

    def _try(self, message: Message, task: str) -> Answer | None:
        """The hub's answer; None when there was none. Logs what has to be tried again."""
        try:
            answer = self._post(message)
        except HubGoneError as error:
            self._log.warning(f"{message.type} is not delivered yet", task=task, error=str(error))
            return None
        if answer.is_passing:
            self._log.warning(f"{message.type} is not accepted yet", task=task, answer=answer.explanation)
        return answer

    def _post(self, message: Message) -> Answer:
        """On the connection of the message before, where it still holds. Raises HubGoneError."""
        if self._connection is not None:
            try:
                return self._post_on(self._connection, message)
            except HubGoneError:
                self._hang_up()
        self._connection = self._hub.connect()
        try:
            return self._post_on(self._connection, message)
        except HubGoneError:
            self._hang_up()
            raise

    def _post_on(self, connection: Connection, message: Message) -> Answer:
        answer = connection.post(message)
        if answer.is_last:
            self._hang_up()
        return answer

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _is_about_content(answer: Answer) -> bool:
    return answer.status == 413 or answer.code in _CONTENT_CODES
