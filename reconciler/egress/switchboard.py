"""What the hub may do to a running egress process: swap the configuration, register instances, look at it.

All state is here, in memory; `control.py` is the socket in front. Each call that returns has taken effect.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconciler.egress.budget import Budgets, Spent
from reconciler.egress.config import NO_CONFIG, Config, InstanceEntry, RefusedError
from reconciler.egress.instance import Instance
from reconciler.egress.ledger import Ledger, day_of
from reconciler.egress.policy import Policy
from reconciler.egress.provider import Provider
from reconciler.router.clock import boottime_s
from reconciler.router.line import HttpConfig
from reconciler.router.listener import Door
from reconciler.router.version import code_version

SOCKET = "llm.sock"
MAX_LINES = 64


class Switchboard:
    """`http` is how doors of instances speak; set before the first one is registered."""

    http: HttpConfig

    def __init__(self, *, run: Path, fleet: str, ledger: Ledger, policy: Policy) -> None:
        """Raises StoreError."""
        self.config: Config = NO_CONFIG
        self.providers: dict[str, Provider] = {}
        self.instances: dict[str, Instance] = {}
        self.ledger = ledger
        self.policy = policy
        self.budgets = Budgets(day=day_of(time.time()))
        self.budgets.by_agent.update(ledger.sum_day(self.budgets.day))
        self._run = run
        self._fleet = fleet
        self._epoch = secrets.token_hex(8)
        self._code_version = code_version()
        self._started_at = boottime_s()
        self._doors: dict[str, Door] = {}
        self._swap = asyncio.Lock()

    async def configure(self, config: Config) -> None:
        """Swap all at once, or nothing; requests under way end as they began. Raises RefusedError."""
        async with self._swap:
            providers = {name: self._keep_or_make(name, config) for name in config.providers}
            engines = await self.policy.prepare(config)
            gone = [old for name, old in self.providers.items() if providers.get(name) is not old]
            self.config, self.providers = config, providers
            await self.policy.use(config, engines)
            for provider in gone:
                provider.upstream.close()

    async def put_instance(self, name: str, entry: InstanceEntry) -> None:
        """Register or change; its socket listens when this returns. Raises RefusedError, StoreError."""
        async with self._swap:
            instance = self.instances.get(name)
            if instance is not None and instance.entry.agent != entry.agent:
                raise RefusedError(f"instances: {name} belongs to {instance.entry.agent}; remove it first")
            for work in entry.work:
                if work.run not in self.budgets.by_run:
                    self.budgets.by_run[work.run] = self.ledger.sum_run(work.run)
            is_moved = instance is not None and instance.entry.uid != entry.uid
            if instance is None:
                instance = self.instances[name] = Instance(name, entry)
            else:
                instance.change(entry)
            door = self._doors.get(name)
            if door is not None and door.is_open and not is_moved:
                return
            if door is not None:
                door.close()
            try:
                self._doors[name] = await self._open_door(instance)
            except (OSError, ValueError) as error:
                del self.instances[name]
                self._doors.pop(name, None)
                raise RefusedError(f"instances: {name}: {error}") from error

    async def remove_instance(self, name: str) -> None:
        """Revoke its tokens, end its connections. When this returns nothing of it is on its way any more."""
        async with self._swap:
            instance = self.instances.pop(name, None)
            if instance is None:
                return
            instance.tokens = ()
            door = self._doors.pop(name)
            door.close()
            await door.finish(0.0)

    def report(self) -> Mapping[str, Any]:
        """The state, as JSON; `usage` is that of today by agent, and `runs` that of the runs under way."""
        return {
            "pid": os.getpid(),
            "fleet": self._fleet,
            "epoch": self._epoch,
            "code_version": self._code_version,
            "uptime_s": round(boottime_s() - self._started_at, 3),
            "config_digest": self.config.digest,
            "revision": self.config.revision,
            "ledger_fault": self.ledger.fault,
            "policy": {"engine": self.policy.engine, "fault": self.policy.fault},
            "providers": {name: _show_provider(provider) for name, provider in self.providers.items()},
            "instances": {
                name: _show_instance(instance, self._doors[name].is_open) for name, instance in self.instances.items()
            },
            "usage": {agent: _show_spent(spent) for agent, spent in self.budgets.by_agent.items()},
            "runs": {run: _show_spent(spent) for run, spent in self.budgets.by_run.items()},
        }

    def tick(self) -> None:
        """Once per second: another day, runs that nobody has any more, slow lines, tokens that ran out."""
        wall_s = time.time()
        self.ledger.settle_denials()
        self.ledger.flush()
        if day_of(wall_s) != self.budgets.day:
            self.budgets.begin_day(day_of(wall_s))
            self.ledger.forget_old(wall_s)
        for door in self._doors.values():
            door.drop_slow(door.loop.time())
        at_work = {work.run for instance in self.instances.values() for work in instance.entry.work}
        for run in [r for r, spent in self.budgets.by_run.items() if r not in at_work and not spent.held_tokens]:
            del self.budgets.by_run[run]

    async def close(self) -> None:
        """Close all doors; answers under way have a moment to end."""
        doors = list(self._doors.values())
        for door in doors:
            door.close()
        await asyncio.gather(*(door.finish() for door in doors))
        for provider in self.providers.values():
            provider.upstream.close()
        await self.policy.close()

    def _keep_or_make(self, name: str, config: Config) -> Provider:
        known, entry = self.providers.get(name), config.providers[name]
        if known is not None and known.is_same(entry, config.limits):
            return known
        return Provider(name, entry, config.limits)

    async def _open_door(self, instance: Instance) -> Door:
        folder, uid = self._run / "hub" / instance.name, instance.entry.uid
        _make_private(folder, uid)
        door = Door(folder / SOCKET, self.http, instance, max_lines=MAX_LINES)
        await door.open(uid)
        return door


def _make_private(folder: Path, uid: int) -> None:
    """A directory that only `uid` and root may enter. What stands there is kept: it may be mounted in a container."""
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    if os.geteuid() == 0:
        folder.parent.chmod(0o711)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink():
        raise OSError(f"{folder} is a symbolic link")
    if os.geteuid() == 0:
        os.chown(folder, uid, uid)


def _show_provider(provider: Provider) -> Mapping[str, Any]:
    return {"is_away": provider.breaker.is_open, "fault": provider.fault, "idle": provider.upstream.idle}


def _show_instance(instance: Instance, is_open: bool) -> Mapping[str, Any]:
    """Without a digest where its socket is gone, so that the hub registers it anew."""
    return {
        "agent": instance.entry.agent,
        "digest": instance.entry.digest if is_open else "",
        "sensitivity": instance.entry.sensitivity,
        "under_way": instance.under_way,
        "denied": dict(instance.denied),
    }


def _show_spent(spent: Spent) -> Mapping[str, Any]:
    return {"requests": spent.requests, "tokens": spent.tokens, "cost": round(spent.cost, 6)}
