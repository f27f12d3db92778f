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
from reconciler.router.message import Deny
from reconciler.router.seen import SeenIds

_MAX_DENIAL = 300


class Token(NamedTuple):
    """`sha256` is the raw digest; `expires_at` is wall clock in epoch seconds."""

    sha256: bytes
    expires_at: float


class Instance:
    """One registered instance. `is_removed` turns true once, when its registration ends.

    Two may read what is sent to it: its daemon, and a command that this runs. Where the daemon says so in its hello, it
    takes only the hub's orders, which lie apart in `orders`, and `mailbox` is the command's.
    """

    __slots__ = (
        "address",
        "agent",
        "allowance",
        "cancels",
        "capabilities",
        "denials",
        "digest",
        "heartbeat",
        "heartbeat_at",
        "hello",
        "in_flight_bytes",
        "is_removed",
        "last_denial",
        "last_seen",
        "mailbox",
        "name",
        "orders",
        "outstanding",
        "readers",
        "seen",
        "seq",
        "tokens",
        "transport",
        "uid",
    )

    def __init__(self, name: str, entry: InstanceEntry) -> None:
        self.name = name
        self.mailbox = Mailbox(secrets.token_hex(4))
        self.orders = Mailbox(secrets.token_hex(4))
        self.seen = SeenIds()
        self.hello: Mapping[str, Any] | None = None
        self.heartbeat: Mapping[str, Any] | None = None
        self.heartbeat_at = 0.0
        self.last_seen = 0.0
        self.last_denial = ""
        self.seq = 0
        self.outstanding = 0
        self.in_flight_bytes = 0
        self.allowance: Allowance | None = None
        self.denials = InstanceDenials()
        self.cancels: Sequence[Any] = ()
        self.readers: list[tuple[Mailbox, asyncio.Future[None]]] = []
        self.is_removed = False
        self.tokens: tuple[Token, ...] = ()
        self.change(entry)

    def change(self, entry: InstanceEntry) -> None:
        """Take over an entry. None of the old tokens in it means another container, which must say hello."""
        self.agent = entry.agent
        self.address = f"{entry.agent}/{self.name}"
        self.uid = entry.uid
        self.transport = entry.transport
        self.capabilities = entry.capabilities
        tokens = tuple(Token(bytes.fromhex(t.sha256), t.expires_at) for t in entry.tokens)
        if not {t.sha256 for t in tokens} & {t.sha256 for t in self.tokens}:
            self.hello = None
            self.last_denial = ""
        self.tokens = tokens
        self.digest = entry.digest

    @property
    def load(self) -> int:
        """What it has not dealt with yet: messages in the mailbox and requests not answered."""
        return self.mailbox.waiting + self.orders.waiting + self.outstanding

    def note_call(self, now: float, *, is_daemon: bool) -> None:
        """Whoever calls is alive; but where a daemon takes tasks only, others call too, and may outlive its hanging."""
        if is_daemon or not self._is_split:
            self.last_seen = now

    def greet(self, hello: Mapping[str, Any]) -> None:
        """Its daemon says what it is. Until then orders wait: nobody knows whether they are for the daemon alone."""
        self.hello, self.last_denial = hello, ""
        for letter in () if self._is_split else self.orders.drain():
            self.put(letter)

    def note_denial(self, denied: Deny) -> None:
        """What it was told last, until it has said hello: that may be why it does not."""
        if self.hello is None:
            self.last_denial = f"{denied.code} at {denied.step}: {denied.reason}"[:_MAX_DENIAL]

    def put(self, letter: Letter) -> None:
        """Into the mailbox that it is for, and wake one reader of that."""
        mailbox = self.mailbox
        if letter.is_order and (self.hello is None or self._is_split):
            mailbox = self.orders
        mailbox.put(letter)
        for read, reader in self.readers:
            if read is mailbox and not reader.done():
                reader.set_result(None)
                return

    def acknowledge(self, cursor: str) -> bool:
        """Of whichever mailbox it is; False when it is no cursor at all."""
        return self.mailbox.acknowledge(cursor) and self.orders.acknowledge(cursor)

    def purge(self, now: float) -> Sequence[Letter]:
        """Drop what has expired and is not in a reader's hands; returns it."""
        return [letter for mailbox in (self.mailbox, self.orders) if len(mailbox) for letter in mailbox.purge(now)]

    @property
    def _is_split(self) -> bool:
        return self.hello is not None and self.hello.get("takes") == "tasks"

    def wake_all(self) -> None:
        """End all polls that wait."""
        for _, reader in self.readers:
            if not reader.done():
                reader.set_result(None)


class Registry:
    """Instances by name, by agent, and those that come in by TLS by token."""

    def __init__(self) -> None:
        self.by_name: dict[str, Instance] = {}
        self._by_agent: dict[str, dict[str, Instance]] = {}
        self._by_token: dict[bytes, Instance] = {}

    def of_agent(self, agent: str) -> Collection[Instance]:
        """The instances of an agent, in order of registration; without those made for one delegated task."""
        return self._by_agent.get(agent, {}).values()

    def find_by_token(self, sha256: bytes) -> Instance | None:
        """Whose token has this digest, of those that come in by TLS; whether it is still valid is not asked."""
        return self._by_token.get(sha256)

    def register(self, name: str, entry: InstanceEntry) -> Instance:
        """The new instance, or the one of that name changed to `entry`."""
        instance = self.by_name.get(name)
        if instance is None:
            instance = self.by_name[name] = Instance(name, entry)
        else:
            self._forget_agent(instance)
            self._forget_tokens(instance)
            instance.change(entry)
        if instance.capabilities is None:
            self._by_agent.setdefault(instance.agent, {})[name] = instance
        if instance.transport == "tls":
            self._by_token.update((token.sha256, instance) for token in instance.tokens)
        return instance

    def remove(self, name: str) -> Instance | None:
        """Revoke its tokens and forget it; returns it, or None where there was none."""
        instance = self.by_name.pop(name, None)
        if instance is not None:
            instance.is_removed = True
            self.revoke(instance)
            self._forget_agent(instance)
            instance.wake_all()
        return instance

    def revoke(self, instance: Instance) -> None:
        """None of its tokens is valid any more."""
        self._forget_tokens(instance)
        instance.tokens = ()

    def _forget_tokens(self, instance: Instance) -> None:
        for token in instance.tokens:
            if self._by_token.get(token.sha256) is instance:
                del self._by_token[token.sha256]

    def _forget_agent(self, instance: Instance) -> None:
        siblings = self._by_agent.get(instance.agent, {})
        siblings.pop(instance.name, None)
        if not siblings:
            self._by_agent.pop(instance.agent, None)
