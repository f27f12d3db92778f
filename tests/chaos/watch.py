"""What can be seen of a fleet from outside, again and again: does the hub answer, whom does the router know, what runs.

A thread of its own, because who is stopped answers late. Nothing here is the reconciler's code.
"""

import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.site import Site, call

LOOK_S = 0.15


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Sight:
    """One look. `at` is CLOCK_BOOTTIME before it.

    `instances` is what the router says, and `engine` which policy engine answers it; `phases` is what state.db says.
    """

    at: float = 0.0
    is_hub_ready: bool = False
    epoch: str = ""
    engine: str = ""
    instances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    phases: Mapping[str, str] = field(default_factory=dict)
    crashes: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)

    def is_back(self, instance: str, since: float) -> bool:
        """Whether it has called since then, and takes tasks."""
        known = self.instances.get(instance)
        return (
            known is not None
            and known["hello"] is not None
            and known["last_seen"] > since
            and self.phases.get(instance) == "executing"
        )


class Watch(threading.Thread):
    """`sight` is the latest look. `epochs` and `entries` say when a router, or an entry of one, was first seen."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self._site = site
        self._over = threading.Event()
        self.sight = Sight()
        self.epochs: list[tuple[float, str]] = []
        self.entries: dict[str, list[tuple[float, str]]] = {}

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self.sight = self._look()
            self._note(self.sight)

    def close(self) -> None:
        self._over.set()
        if self.ident is not None:
            self.join(10)

    def changed_since(self, instance: str, since: float) -> bool:
        """Whether the router, or what it knows of the instance, may have been another one at some time since then."""
        seen = [*self.epochs, *self.entries.get(instance, [])]
        return any(at >= since for at, _ in seen)

    def _note(self, sight: Sight) -> None:
        now = boottime()
        if sight.epoch and (not self.epochs or self.epochs[-1][1] != sight.epoch):
            self.epochs.append((now, sight.epoch))
        for name, known in sight.instances.items():
            seen = self.entries.setdefault(name, [])
            if not seen or seen[-1][1] != known["digest"]:
                seen.append((now, known["digest"]))

    def _look(self) -> Sight:
        at = boottime()
        ready, report = False, {}
        with suppress(OSError):
            ready = call(self._site.run / "api.sock", "GET", "/readyz", s=1.0).status == 200
        with suppress(OSError):
            report = call(self._site.run / "control.sock", "GET", "/report", s=1.0).body
        rows, tasks = self._read()
        return Sight(
            at=at,
            is_hub_ready=ready,
            epoch=report.get("epoch", ""),
            engine=report.get("policy", {}).get("engine", ""),
            instances=report.get("instances", {}),
            phases={name: phase for name, phase, _ in rows},
            crashes={name: crashes for name, _, crashes in rows},
            tasks=tasks,
        )

    def _read(self) -> tuple[list[tuple[str, str, int]], dict[str, str]]:
        with suppress(sqlite3.Error), closing(read_only(self._site)) as state:
            instances = state.execute("SELECT name, phase, crashes FROM instance").fetchall()
            return instances, dict(state.execute("SELECT name, state FROM task").fetchall())
        return [], {}


def read_only(site: Site) -> sqlite3.Connection:
    """state.db as it is now. Raises sqlite3.Error."""
    return sqlite3.connect(f"file:{site.fleet.data}/state.db?mode=ro", uri=True, timeout=1.0)


def conditions(site: Site) -> list[tuple[str, str, str]]:
    """What is wrong now by the hub's own account: whose condition it is, its type, and the message."""
    with suppress(sqlite3.Error), closing(read_only(site)) as state:
        return state.execute("SELECT subject, type, message FROM condition WHERE status = 1").fetchall()
    return []
