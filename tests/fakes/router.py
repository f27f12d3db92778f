"""A router in memory: registrations and mailboxes go with each restart of it, its inbox stays."""

import copy
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import RouterError
from reconciler.ports import Clock, InboxMessage, InstanceReport, RouterReport, Tally
from tests.fakes.fuse import Fuse


@dataclass(slots=True)
class Registered:
    """One instance as the router holds it in memory."""

    agent: str
    tokens: frozenset[str]
    digest: str
    hello: Mapping[str, Any] | None = None
    last_seen: float = 0.0
    last_denial: str = ""
    capabilities: Sequence[str] | None = None
    mailbox: list[Mapping[str, Any]] = field(default_factory=list)


class FakeRouter:
    """`RouterControl`. What agents do to a router are the methods below the port's. `calls` counts by method."""

    def __init__(self, clock: Clock, fuse: Fuse | None = None) -> None:
        self.fuse = fuse or Fuse()
        self.instances: dict[str, Registered] = {}
        self.config: Mapping[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.sent: list[Mapping[str, Any]] = []
        self.cancels: dict[str, Sequence[Mapping[str, Any]]] = {}
        self.inbox: list[InboxMessage] = []
        self.cursor = 0
        self.is_running = False
        self.unreadable = ""
        self.is_log_full = False
        self.policy_fault = ""
        self.tallies: dict[str, Tally] = {}
        self.code = "1"
        """What is started next; what runs may be another one."""
        self._running_code = ""
        self._clock = clock
        self._epoch = 0
        self._started = 0.0
        self._seq = 0
        self._failures: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._hinted = threading.Event()

    # --- the port -----------------------------------------------------------------------------------------------------

    def report(self) -> Reading[RouterReport]:
        if self.unreadable:
            return Unavailable(reason=self.unreadable)
        if not self.is_running:
            return Absent()
        with self._lock:
            return Ok(
                RouterReport(
                    pid=1,
                    epoch=f"epoch-{self._epoch}",
                    code_version=self._running_code,
                    next_version=self.code if self._running_code != self.code else "",
                    config_digest=str(self.config.get("digest", "")),
                    policy_revision="",
                    inbox_seq=self._seq,
                    log_unavailable=self.is_log_full,
                    policy_fault=self.policy_fault,
                    tallies=dict(self.tallies),
                    uptime_s=self._clock.boottime() - self._started,
                    instances={
                        name: InstanceReport(
                            instance=name,
                            digest=i.digest,
                            hello=i.hello,
                            last_seen=i.last_seen,
                            last_denial=i.last_denial,
                            mailbox_messages=len(i.mailbox),
                        )
                        for name, i in self.instances.items()
                    },
                )
            )

    def configure(self, config: Mapping[str, Any]) -> None:
        with self._acting("configure"):
            self.config = config

    def send(self, message: Mapping[str, Any]) -> None:
        with self._acting("send"):
            if refused := self._deliver(message):
                raise RouterError(refused)

    def send_all(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        with self._acting("send_all"):
            return [self._deliver(message) for message in messages]

    def _deliver(self, message: Mapping[str, Any]) -> str:
        instance = self.instances.get(message["instance"])
        if instance is None:
            return f"there is no instance {message['instance']}"
        instance.mailbox.append(message["message"])
        self.sent.append(message)
        return ""

    def put_instance(self, name: str, entry: Mapping[str, Any]) -> None:
        with self._acting("put_instance"):
            tokens = frozenset(t["sha256"] for t in entry["tokens"])
            known = self.instances.get(name)
            fresh = Registered(
                agent=entry["agent"], tokens=tokens, digest=entry["digest"], capabilities=entry.get("capabilities")
            )
            if known is not None:
                fresh.mailbox, fresh.last_seen = known.mailbox, known.last_seen
                fresh.hello = known.hello if known.tokens & tokens else None
            self.instances[name] = fresh

    def remove_instance(self, name: str) -> None:
        with self._acting("remove_instance"):
            self.instances.pop(name, None)
            self.cancels.pop(name, None)

    def set_cancels(self, instance: str, cancels: Sequence[Mapping[str, Any]]) -> None:
        with self._acting("set_cancels"):
            self.cancels[instance] = cancels

    def set_inbox_cursor(self, seq: int) -> None:
        with self._acting("set_inbox_cursor"):
            self.cursor = seq
            self.inbox = [row for row in self.inbox if row.seq > seq]

    def read_inbox(self, after_seq: int, limit: int) -> Sequence[InboxMessage]:
        with self._lock:
            self._fail_if_told("read_inbox")
            return [row for row in self.inbox if row.seq > after_seq][:limit]

    def start(self) -> None:
        with self.fuse.around("router.start"), self._lock:
            self._fail_if_told("start")
            self.calls["start"] += 1
            if self.is_running and self._running_code != self.code:
                self.die()
            if not self.is_running:
                self.is_running = True
                self._running_code = self.code
                self._epoch += 1
                self._started = self._clock.boottime()

    def stop(self) -> None:
        with self._acting("stop"):
            self.die()

    def wait_hint(self, timeout_s: float) -> Sequence[str]:
        """A hint, or an early end of the time-out: a test need not wait for a thread that waits here."""
        self._hinted.wait(min(timeout_s, 0.05))
        hinted = self._hinted.is_set()
        self._hinted.clear()
        if not self.is_running:
            raise RouterError("wait_hint: the router does not answer")
        return ("task",) if hinted else ()

    # --- the world ----------------------------------------------------------------------------------------------------

    def die(self) -> None:
        """The process ends: what it held in memory is gone."""
        self.is_running = False
        self.instances, self.config, self.cancels, self.tallies = {}, {}, {}, {}

    def fail_next(self, method: str, times: int = 1) -> None:
        """The next calls of a method are not answered and have no effect."""
        self._failures[method] += times

    def hello(self, name: str, payload: Mapping[str, Any]) -> None:
        self.instances[name].hello = payload
        self.beat(name)

    def beat(self, name: str) -> None:
        """The instance calls: that is a heartbeat."""
        self.instances[name].last_seen = self._clock.boottime()

    def post(self, name: str, type_: str, payload: Mapping[str, Any], id_: str = "") -> None:
        """A message of an instance's to the hub, committed to hub_inbox; with an id of its own unless one is given."""
        with self._lock:
            self._seq += 1
            agent = self.instances[name].agent if name in self.instances else name.rpartition("-")[0]
            id_ = id_ or f"m{self._seq}"
            row = InboxMessage(seq=self._seq, instance=name, agent=agent, type=type_, id=id_, payload=payload)
            self.inbox.append(row)

    def hint(self) -> None:
        """There is something for the hub to look at."""
        self._hinted.set()

    def forget_log(self) -> None:
        """traffic.db was lost: rows count from 1 again."""
        self.inbox, self._seq = [], 0

    def copy(self, clock: Clock) -> "FakeRouter":
        """Another router in the same state; what is done to one does not show in the other."""
        other = FakeRouter(clock)
        kept = {k: v for k, v in vars(self).items() if k not in ("_lock", "_hinted", "_clock", "fuse")}
        vars(other).update(copy.deepcopy(kept))
        return other

    # --- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _acting(self, method: str) -> Iterator[None]:
        with self.fuse.around(f"router.{method}"), self._lock:
            self._fail_if_told(method)
            if not self.is_running and method != "stop":
                raise RouterError(f"{method}: the router does not answer")
            self.calls[method] += 1
            yield

    def _fail_if_told(self, method: str) -> None:
        if self._failures[method] > 0:
            self._failures[method] -= 1
            raise RouterError(f"{method}: the router does not answer")
