"""Messages between agents, from and to their own sockets with their own tokens, as their commands would.

Each sender counts: `n` is sent until somebody has accepted it, and only then `n + 1`. A receiver takes and acknowledges.
After a poll that failed it waits for a lease, so that what was on its way to it comes again in its old place.
"""

import http.client
import json
import socket
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.scenario import OPA_TIMEOUT_S, SAID
from tests.chaos.site import Reply, Site, call
from tests.chaos.watch import Watch, boottime

PROBE = "chat.probe"
PROBING_S = 12.0
DECIDED = (202, 403)
LEASE_S = 1.0
PAUSE_S = 0.15
POLL_S = 1


@dataclass(frozen=True)
class Sent:
    """A message that was accepted: when it was first tried, and when accepted (CLOCK_BOOTTIME)."""

    sender: str
    n: int
    began: float
    accepted: float


@dataclass(frozen=True)
class Taken:
    """A message as it came to an instance."""

    receiver: str
    sender: str
    n: int


class Mail:
    """Everybody who talks. `pause` keeps senders quiet, `close` ends all."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self._quiet = threading.Event()
        self._lock = threading.Lock()
        self.sent: list[Sent] = []
        self.taken: list[Taken] = []
        self.last_accepted = 0.0
        agents = site.scenario.agents.values()
        self._senders = [f"{a.name}-0" for a in agents if a.talks_to]
        receivers = [f"{a.name}-{n}" for a in agents if not a.talks_to for n in range(a.replicas)]
        self._to = next(a.name for a in agents if not a.talks_to)
        self._threads = [threading.Thread(target=self._send_all, args=(s,), daemon=True) for s in self._senders]
        self._threads += [threading.Thread(target=self._take_all, args=(r,), daemon=True) for r in receivers]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def hush(self) -> None:
        """No new messages."""
        self._quiet.set()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(10)

    def probe(self, count: int, within_s: float = PROBING_S) -> list[float]:
        """Seconds until each of so many messages was decided, one after the other; fewer where the time is up."""
        connection = http.client.HTTPConnection("hub", timeout=POLL_S + 3.0)
        waits_s: list[float] = []
        until = time.monotonic() + within_s
        with closing(connection):
            while len(waits_s) < count and time.monotonic() < until:
                began = time.monotonic()
                try:
                    is_decided = self._ask(connection, f"probe-{began}") in DECIDED
                except (OSError, http.client.HTTPException) as error:
                    is_decided = isinstance(error, TimeoutError)
                    connection.close()
                if is_decided:
                    waits_s.append(time.monotonic() - began)
        return waits_s

    def _ask(self, connection: http.client.HTTPConnection, id_: str) -> int:
        """The status of a message that nobody waits for."""
        sender = self._senders[0]
        if connection.sock is None:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(connection.timeout)
            connection.sock.connect(str(socket_of(self._site, sender)))
        message = {"id": id_, "type": PROBE, "pattern": "event", "to": self._to, "payload": {}}
        body = json.dumps(message).encode()
        connection.request("POST", "/api/hub/messages", body, headers_of(self._site, sender))
        with connection.getresponse() as response:
            response.read()
            return response.status

    def is_answered_at_once(self) -> bool:
        """Whether there is nothing yet that messages wait for."""
        waits_s = self.probe(3, within_s=1.0)
        return len(waits_s) == 3 and max(waits_s) < OPA_TIMEOUT_S / 2

    def missing(self, watch: Watch) -> list[Sent]:
        """Accepted, taken by nobody, and no router or receiver went away since it was sent, which would explain it."""
        with self._lock:
            have = {(t.sender, t.n) for t in self.taken}
            sent = list(self.sent)
        receivers = [i for i in self._site.instances() if i.startswith(f"{self._to}-")]
        return [
            s
            for s in sent
            if (s.sender, s.n) not in have and not any(watch.changed_since(r, s.began) for r in receivers)
        ]

    def faults(self, watch: Watch) -> list[str]:
        """What is wrong with what was sent and taken."""
        out = [f"message {s.n} of {s.sender} was accepted and never delivered" for s in self.missing(watch)]
        last: dict[tuple[str, str], int] = {}
        seen: set[Taken] = set()
        for taken in self.taken:
            if taken in seen:
                continue
            seen.add(taken)
            pair = (taken.sender, taken.receiver)
            if taken.n < last.get(pair, -1):
                out.append(f"{taken.receiver} got message {taken.n} of {taken.sender} after {last[pair]}")
            last[pair] = max(taken.n, last.get(pair, -1))
        return out

    def _send_all(self, sender: str) -> None:
        n = 0
        while not self._stop.wait(PAUSE_S):
            if self._quiet.is_set():
                continue
            began = boottime()
            if self._send(sender, n):
                with self._lock:
                    self.last_accepted = boottime()
                    self.sent.append(Sent(sender, n, began, self.last_accepted))
                n += 1

    def _send(self, sender: str, n: int) -> bool:
        """Whether it was accepted before the end of all; the same message is sent until it is."""
        message = {
            "id": f"{sender}-{n}",
            "type": SAID,
            "pattern": "event",
            "to": self._to,
            "ttl_s": 20,
            "payload": {"sender": sender, "n": n},
        }
        body = json.dumps(message).encode()
        while not self._stop.is_set():
            with suppress(OSError):
                if self._call(sender, "POST", "/api/hub/messages", body).status == 202:
                    return True
            self._stop.wait(PAUSE_S)
        return False

    def _take_all(self, receiver: str) -> None:
        cursor = ""
        while not self._stop.is_set():
            try:
                reply = self._call(
                    receiver, "GET", f"/api/hub/messages?wait={POLL_S}&max=20" + (f"&ack={cursor}" if cursor else "")
                )
                if reply.status != 200:
                    raise ConnectionError(f"status {reply.status}")
            except OSError:
                cursor = ""
                self._stop.wait(1.5 * LEASE_S)
                continue
            cursor = reply.body["cursor"]
            with self._lock:
                self.taken += [
                    Taken(receiver, m["payload"]["sender"], m["payload"]["n"])
                    for m in reply.body["messages"]
                    if m["type"] == SAID
                ]

    def _call(self, instance: str, method: str, target: str, body: bytes = b"") -> Reply:
        return call_as(self._site, instance, method, target, body)


def call_as(site: Site, instance: str, method: str, target: str, body: bytes = b"") -> Reply:
    """One call on an instance's socket, with its token. Raises OSError."""
    return call(socket_of(site, instance), method, target, body, headers_of(site, instance), s=POLL_S + 3.0)


def socket_of(site: Site, instance: str) -> Path:
    return site.run / "hub" / instance / "hub.sock"


def headers_of(site: Site, instance: str) -> dict[str, str]:
    token = (site.run / "secrets" / instance / "agent-token").read_text().strip()
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def report_late(site: Site, instance: str, order: dict[str, Any]) -> bool:
    """As an execution would that was given up long ago: `order` is task, run and generation. Whether it was taken."""
    payload = {**order, "exit_code": 0, "result": {"nonce": "of nobody"}, "artefacts": [], "duration_s": 0.1}
    message = {
        "id": f"late-{order['run']}-{boottime()}",
        "type": "task.completed",
        "pattern": "event",
        "to": "hub",
        "payload": {**payload, "stdout_truncated": False},
    }
    with suppress(OSError):
        return call_as(site, instance, "POST", "/api/hub/messages", json.dumps(message).encode()).status == 202
    return False
