"""The intake: says hello to the hub, then polls for tasks and hands them to the runs.

All other messages to the agent are left to its command, which polls for itself.

One connection is one session with one router: when it breaks, the router may be another one that
knows neither this instance nor the cursor, so the next session starts with a hello and without an
acknowledgement. What was not acknowledged comes again, and the runs know what they had.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from urllib.parse import urlencode

from reconciler.agentd.assignment import AssignmentError, parse_ref
from reconciler.agentd.config import Config
from reconciler.agentd.hub import CALL_TIMEOUT_S, Answer, Backoff, Connection, Hub, HubGoneError
from reconciler.agentd.log import Log
from reconciler.agentd.message import TAKES, build_hello
from reconciler.agentd.runs import Runs

_HELLO_WAIT_S = 10
_POLL_WAIT_S = 25
_POLL_MAX = 32
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Intake:
    """`run` is one thread's.

    `stop` may come from another. `ready` is set once the hub has accepted the hello.
    """

    def __init__(self, hub: Hub, config: Config, runs: Runs, log: Log) -> None:
        self._hub = hub
        self._config = config
        self._runs = runs
        self._log = log
        self._stopped = threading.Event()
        self._connection: Connection | None = None
        self._backoff = Backoff(base_s=0.1, cap_s=5.0)
        self._last_trouble = ""
        self.ready = threading.Event()

    def run(self) -> None:
        """Until stopped: hold sessions with the hub."""
        while not self._stopped.is_set():
            try:
                if self._greet():
                    self._poll()
            except HubGoneError as error:
                if not self._stopped.is_set():
                    self._note_trouble("the hub does not answer", str(error))
                    self._stopped.wait(self._backoff.next_s())
            finally:
                self._hang_up()

    def stop(self) -> None:
        """Take no more messages, also not from a poll that is waiting now."""
        self._stopped.set()
        connection = self._connection
        if connection is not None:
            connection.abort()

    def _call(self, method: str, path: str, query: Mapping[str, object], body: bytes | None, wait_s: float) -> Answer:
        if self._connection is None:
            self._connection = self._hub.connect()
        answer = self._connection.call(method, f"{path}?{urlencode(query)}", body, CALL_TIMEOUT_S + wait_s)
        if answer.is_last:
            self._hang_up()
        return answer

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _greet(self) -> bool:
        """Say hello; whether the hub accepted it."""
        hello = build_hello(self._config, _read_boot_id())
        answer = self._call("POST", "/api/hub/messages", {"wait": _HELLO_WAIT_S}, hello.body, _HELLO_WAIT_S)
        reply = answer.body.get("payload", answer.body)
        if answer.is_ok and isinstance(reply, Mapping) and reply.get("ok") is True:
            self._backoff.reset()
            self._last_trouble = ""
            self._log.info("the hub accepted the hello")
            self.ready.set()
            return True
        reason = str(reply.get("reason", "")) if isinstance(reply, Mapping) else ""
        self._note_trouble("the hub has not accepted the hello", f"{answer.explanation} {reason}".strip())
        self._stopped.wait(self._backoff.next_s() + answer.retry_after_s)
        return False

    def _poll(self) -> None:
        """Take messages until the session ends or the daemon stops. Raises HubGoneError."""
        cursor = ""
        while not self._stopped.is_set():
            query = {"wait": _POLL_WAIT_S, "max": _POLL_MAX, "only": TAKES, **({"ack": cursor} if cursor else {})}
            asked_at = time.monotonic()
            answer = self._call("GET", "/api/hub/messages", query, None, _POLL_WAIT_S)
            if self._stopped.is_set():
                return
            if not answer.is_ok:
                self._note_trouble("the hub refused a poll", answer.explanation)
                cursor = cursor if answer.is_passing else ""
                self._stopped.wait(self._backoff.next_s() + answer.retry_after_s)
                continue
            messages = answer.body.get("messages")
            cursor = str(answer.body.get("cursor") or "")
            for message in messages if isinstance(messages, list) else []:
                self._take(message)
            if messages or time.monotonic() - asked_at > 1.0:
                self._backoff.reset()
            else:
                self._stopped.wait(self._backoff.next_s())
            if answer.is_last:
                return

    def _take(self, message: object) -> None:
        if not isinstance(message, Mapping):
            self._log.warning("something that is not a message was dropped")
            return
        type_, payload = message.get("type"), message.get("payload")
        is_from_hub = str(message.get("from") or "hub").partition("/")[0] == "hub"
        if type_ == "task.assigned" and is_from_hub:
            self._runs.assign(payload, str(message.get("id") or ""))
        elif type_ == "task.cancel" and is_from_hub:
            try:
                self._runs.cancel(parse_ref(payload))
            except AssignmentError as error:
                self._log.error("a cancellation that names no run was dropped", error=str(error))
        else:
            self._log.warning("a message that is no task was dropped", type=str(type_)[:100])

    def _note_trouble(self, msg: str, trouble: str) -> None:
        """Log it when it is not what was logged before."""
        if trouble != self._last_trouble:
            self._last_trouble = trouble
            self._log.warning(msg, error=trouble)


def _read_boot_id() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
