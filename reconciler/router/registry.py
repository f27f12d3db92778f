"""The instances that the router knows, with what it holds of each in memory: tokens, mailbox, hello, heartbeat.

Nothing here is durable; the hub registers everything again after a restart of the router.
"""

import asyncio
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from reconciler.router.buckets import Allowance, InstanceDenials
from reconciler.router.config import InstanceEntry
from reconciler.router.mailbox import Letter, Mailbox
from reconciler.router.seen import SeenIds


class Token(NamedTuple):
    """`sha256` is the raw digest; `expires_at` is wall clock in epoch seconds."""

    sha256: bytes
    expires_at: float


class Instance:
    """One registered instance. `is_removed` turns true once, when its registration ends."""

    __slots__ = (
        "address",
        "agent",
        "allowance",
        "cancels",
        "denials",
        "digest",
        "heartbeat",
        "heartbeat_at",
        "hello",
        "in_flight_bytes",
        "is_removed",
        "last_seen",
        "mailbox",
        "name",
        "outstanding",
        "readers",
        "seen",
        "seq",
        "tokens",
        "uid",
    )

    def __init__(self, name: str, entry: InstanceEntry) -> None:
        self.name = name
        self.mailbox = Mailbox(secrets.token_hex(4))
        self.seen = SeenIds()
        self.hello: Mapping[str, Any] | None = None
        self.heartbeat: Mapping[str, Any] | None = None
        self.heartbeat_at = 0.0
        self.last_seen = 0.0
        self.seq = 0
        self.outstanding = 0
        self.in_flight_bytes = 0
        self.allowance: Allowance | None = None
        self.denials = InstanceDenials()
        self.cancels: Sequence[Any] = ()
        self.readers: list[asyncio.Future[None]] = []
        self.is_removed = False
        self.tokens: tuple[Token, ...] = ()
        self.change(entry)

    def change(self, entry: InstanceEntry) -> None:
        """Take over an entry. None of the old tokens in it means another container, which must say hello."""
        self.agent = entry.agent
        self.address = f"{entry.agent}/{self.name}"
        self.uid = entry.uid
        tokens = tuple(Token(bytes.fromhex(t.sha256), t.expires_at) for t in entry.tokens)
        if not {t.sha256 for t in tokens} & {t.sha256 for t in self.tokens}:
            self.hello = None
        self.tokens = tokens
        self.digest = entry.digest

    @property
    def load(self) -> int:
        """What it has not dealt with yet: messages in the mailbox and requests not answered."""
        return self.mailbox.waiting + self.outstanding

    def put(self, letter: Letter) -> None:
        """Into the mailbox, and wake one reader."""
        self.mailbox.put(letter)
        for reader in self.readers:
            if not reader.done():
                reader.set_result(None)
                return

    def wake_all(self) -> None:
        """End all polls that wait."""
        for reader in self.readers:
            if not reader.done():
                reader.set_result(None)


class Registry:
    """Instances by name and by agent."""

    def __init__(self) -> None:
        self.by_name: dict[str, Instance] = {}
        self._by_agent: dict[str, dict[str, Instance]] = {}

    def of_agent(self, agent: str) -> Collection[Instance]:
        """The instances of an agent, in order of registration."""
        return self._by_agent.get(agent, {}).values()

    def register(self, name: str, entry: InstanceEntry) -> Instance:
        """The new instance, or the one of that name changed to `entry`."""
        instance = self.by_name.get(name)
        if instance is None:
            instance = self.by_name[name] = Instance(name, entry)
        else:
            self._forget_agent(instance)
            instance.change(entry)
        self._by_agent.setdefault(instance.agent, {})[name] = instance
        return instance

    def remove(self, name: str) -> Instance | None:
        """Revoke its tokens and forget it; returns it, or None where there was none."""
        instance = self.by_name.pop(name, None)
        if instance is not None:
            instance.is_removed = True
            instance.tokens = ()
            self._forget_agent(instance)
            instance.wake_all()
        return instance

    def _forget_agent(self, instance: Instance) -> None:
        siblings = self._by_agent[instance.agent]
        del siblings[instance.name]
        if not siblings:
            del self._by_agent[instance.agent]
