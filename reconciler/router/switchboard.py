"""What the hub may do to a running router: swap the configuration, register instances, look at it, end it.

The state of the router is here, in memory; `control.py` is the socket in front. Each call that returns has taken
effect.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from reconciler.errors import StoreError
from reconciler.router.answer import Answer
from reconciler.router.audience import Audience
from reconciler.router.bundles import BundleService
from reconciler.router.clock import boottime_s
from reconciler.router.config import Config, EngineName, HubMessage, HubSend, InstanceEntry, RefusedError
from reconciler.router.engine import Engine
from reconciler.router.engines import StartEngine
from reconciler.router.gate import TlsGate
from reconciler.router.hints import Hints
from reconciler.router.listener import Door
from reconciler.router.log import TrafficLog
from reconciler.router.own import OwnMessages, find_recipients
from reconciler.router.pipeline import Route
from reconciler.router.registry import Instance, Registry
from reconciler.router.requests import Request, Requests
from reconciler.router.rules import Rules, compile_rules
from reconciler.router.version import code_version
from reconciler.runtime.detached import bound_logs

MAX_LINES = 256
SOCKET = "hub.sock"


class Switchboard:
    """The router's state. `start_engine` makes the policy engines that a configuration may name."""

    def __init__(
        self,
        *,
        run: Path,
        data: Path,
        fleet: str,
        epoch: str,
        route: Route,
        hints: Hints,
        start_engine: Mapping[EngineName, StartEngine],
        bundles: BundleService,
    ) -> None:
        self.route = route
        self.hints = hints
        self.epoch = epoch
        self._run = run
        self._data = data
        self._fleet = fleet
        self._own = OwnMessages(route.log)
        self._start_engine = start_engine
        self._bundles = bundles
        self._code_version = code_version()
        self._started_at = boottime_s()
        self._started_wall_s = time.time()
        self._doors: dict[str, Door] = {}
        self._swap = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._http: Any = None

    def serve(self, http: Any, gate: TlsGate) -> None:
        """The HTTP settings that doors of instances use, and the way in for instances without a socket."""
        self._http, self._gate = http, gate

    @property
    def registry(self) -> Registry:
        return self.route.registry

    @property
    def requests(self) -> Requests:
        return self.route.requests

    @property
    def log(self) -> TrafficLog:
        return self.route.log

    async def configure(self, config: Config) -> None:
        """Swap all at once, or nothing. Raises RefusedError, also where only a port could not be opened."""
        async with self._swap:
            old = self.route.rules
            use_peers = self._prepare_peers(config)
            new = await compile_rules(config, old, self._start_engine)
            self.route.rules = new
            use_peers()
            self.log.retention_s = config.log.retention_s
            self.log.inbox_kept_s = config.limits.ttl_s
            self._close_unused(old, new)
            await self._bundles.apply(config)
            await self._gate.apply(config.tls)
        if new.policy_revision != old.policy_revision and self.registry.by_name:
            await self._tell_policy_change(new)
        if self._gate.fault:
            raise RefusedError(f"config: {self._gate.fault}")

    async def put_instance(self, name: str, entry: InstanceEntry) -> None:
        """Register or change; its socket listens when this returns. Raises RefusedError."""
        async with self._swap:
            instance = self.registry.by_name.get(name)
            if instance is not None and instance.agent != entry.agent:
                raise RefusedError(f"instances: {name} belongs to {instance.agent}; remove it first")
            is_moved = instance is not None and (instance.uid, instance.transport) != (entry.uid, entry.transport)
            instance = self.registry.register(name, entry)
            door = self._doors.get(name)
            if door is not None and not is_moved and door.is_open:
                return
            if door is not None:
                door.close()
            try:
                self._doors[name] = await self._open_door(instance)
            except (OSError, ValueError) as error:
                self.registry.remove(name)
                self.requests.drop(instance)
                self._doors.pop(name, None)
                raise RefusedError(f"instances: {name}: {error}") from error

    async def remove_instance(self, name: str) -> None:
        """Revoke, end its connections, forget its mailbox. When this returns nothing of it is on its way any more."""
        async with self._swap:
            instance = self.registry.remove(name)
            if instance is None:
                return
            self.requests.drop(instance)
            door = self._doors.pop(name)
            door.close()
            await door.finish()

    def find_door(self, sha256: bytes) -> Door | None:
        """That of the instance which comes in by TLS with the token of this digest."""
        instance = self.registry.find_by_token(sha256)
        return self._doors.get(instance.name) if instance is not None else None

    async def send_own(self, order: HubSend) -> Answer:
        """A message of the hub's own, or of an operator's. Raises RefusedError, LookupError."""
        rules = self.route.rules
        recipients = find_recipients(self.registry, rules, order)
        request = self._find_request(order)
        answer = await self._own.send(rules, recipients, order.message, order.actor, request)
        if request is not None and answer.status < HTTPStatus.BAD_REQUEST:
            self.requests.answer(request)
        return answer

    def _find_request(self, order: HubSend) -> Request | None:
        """The request of an instance to the hub that the order answers; None where nobody waits for it any more."""
        asker = self.registry.by_name.get(order.instance or "")
        if asker is None or order.message.pattern != "reply":
            return None
        return self.requests.find(self.route.control, order.message.correlation_id or "", asker.address)

    def _prepare_peers(self, config: Config) -> Callable[[], None]:
        """What swaps in the keys of external peers. The first peer of all makes the hub's own. Raises RefusedError."""
        if self.route.peers is None and not any(agent.klp for agent in config.agents.values()):
            return lambda: None
        from reconciler.router.peers import Peers, read_keys

        keys = read_keys(config.agents)
        try:
            peers = self.route.peers or Peers(self._data, self._started_wall_s)
        except StoreError as error:
            raise RefusedError(str(error)) from error

        def use() -> None:
            peers.use(keys)
            self.route.peers = peers

        return use

    async def _tell_policy_change(self, rules: Rules) -> None:
        """Broadcast `policy.changed`; who does not get it learns of it from the next answer."""
        payload = msgspec.Raw(msgspec.json.encode({"revision": rules.policy_revision}))
        message = HubMessage(type="policy.changed", pattern="broadcast", payload=payload)
        order = HubSend(message=message, audience=Audience())
        await self._own.send(rules, find_recipients(self.registry, rules, order), message)

    def set_cancels(self, cancels: Mapping[str, Sequence[Any]]) -> None:
        """What the heartbeats of the named instances are told from now on; unknown ones are passed over."""
        for name, orders in cancels.items():
            instance = self.registry.by_name.get(name)
            if instance is not None:
                instance.cancels = orders

    def report(self) -> Mapping[str, Any]:
        """The state, as JSON. Times of instances are seconds of CLOCK_BOOTTIME, 0 where never."""
        rules = self.route.rules
        return {
            "pid": os.getpid(),
            "fleet": self._fleet,
            "epoch": self.epoch,
            "code_version": self._code_version,
            "uptime_s": round(boottime_s() - self._started_at, 3),
            "config_digest": "" if self._gate.fault else rules.config.digest,
            "revision": rules.config.revision,
            "policy_revision": rules.policy_revision,
            "inbox_seq": self.log.inbox_seq,
            "open_requests": len(self.requests),
            "policy": {"engine": rules.answering_engine, "fault": self._policy_fault()},
            "modes": self._modes(),
            "tallies": {agent: msgspec.structs.asdict(tally) for agent, tally in self.route.tallies.items()},
            "instances": {
                name: {**_show(instance), "lines": len(self._doors[name].state.connections)}
                for name, instance in self.registry.by_name.items()
            },
        }

    def tick(self) -> None:
        """Once per second: slow lines, counted rows, requests, messages and tokens whose time is over, large logs.

        Logs of other servers too: while the hub is dead nobody else is there to keep them small.
        """
        now, wall_s = boottime_s(), time.time()
        for door in self._doors.values():
            door.drop_slow(door.loop.time())
        self._gate.tick(datetime.fromtimestamp(wall_s, UTC))
        self.log.flush_counts()
        self.requests.sweep(now)
        for instance in self.registry.by_name.values():
            self.route.note_expired(instance, instance.purge(now))
            if instance.tokens and not any(token.expires_at > wall_s for token in instance.tokens):
                self.registry.revoke(instance)
                self.hints.add("agent")
        bound_logs(self._data / "log")

    async def close(self) -> None:
        """Close all doors, let running requests be answered, and end the engines."""
        doors = list(self._doors.values())
        for instance in self.registry.by_name.values():
            instance.wake_all()
        self.requests.give_up_all()
        for door in doors:
            door.close()
        await asyncio.gather(*(door.finish() for door in doors))
        for engine in self.route.rules.engines:
            await engine.close()
        await self._bundles.close()
        await self._gate.close()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _open_door(self, instance: Instance) -> Door:
        if instance.transport == "tls":
            return Door(None, self._http, instance, max_lines=MAX_LINES)
        folder = self._run / "hub" / instance.name
        _make_private(folder, instance.uid)
        door = Door(folder / SOCKET, self._http, instance, max_lines=MAX_LINES)
        await door.open(instance.uid)
        return door

    def _close_unused(self, old: Rules, new: Rules) -> None:
        for engine in old.engines:
            if not any(engine is kept for kept in new.engines):
                task = asyncio.get_running_loop().create_task(_close(engine))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def _policy_fault(self) -> str:
        """Why the first engine cannot answer; empty while it can, and while it is only being made ready."""
        first = self.route.rules.engines[0] if self.route.rules.engines else None
        if first is None:
            return ""
        is_fetching = first.name == "opa" and not first.is_ready
        reasons = [first.fault, self._bundles.fault if is_fetching else ""]
        return f"{first.name}: {'; '.join(filter(None, reasons))}" if any(reasons) else ""

    def _modes(self) -> Sequence[str]:
        modes = {
            "log_unavailable": self.log.is_unavailable,
            "log_reserve": self.log.is_reserve_used,
            "policy_fallback": bool(self._policy_fault()),
        }
        return [name for name, is_on in modes.items() if is_on]


async def _close(engine: Engine) -> None:
    await engine.close()


def _make_private(folder: Path, uid: int) -> None:
    """A directory that only `uid` and root may enter. What stands there is kept: it may be mounted in a container."""
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    if os.geteuid() == 0:
        folder.parent.chmod(0o711)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink():
        raise OSError(f"{folder} is a symbolic link")
    folder.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(folder, uid, uid)


def _show(instance: Instance) -> Mapping[str, Any]:
    return {
        "agent": instance.agent,
        "digest": instance.digest,
        "hello": instance.hello,
        "heartbeat": instance.heartbeat,
        "heartbeat_at": instance.heartbeat_at,
        "last_seen": instance.last_seen,
        "last_denial": instance.last_denial,
        "mailbox_messages": instance.mailbox.calls + instance.orders.calls,
        "mailbox_bytes": instance.mailbox.size_bytes + instance.orders.size_bytes,
        "outstanding": instance.outstanding,
        "tokens": len(instance.tokens),
        "in_flight_bytes": instance.in_flight_bytes,
        "polls": len(instance.readers),
    }
