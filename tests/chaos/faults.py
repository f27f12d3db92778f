"""The faults: what each kind does to a fleet, when it is over, and how to see that the fleet got over it.

A kind is a function from the field of battle to a `Fault` that has begun, or None where its target is not there now.
"""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from tests.chaos import processes
from tests.chaos.mail import Mail, report_late
from tests.chaos.processes import Process
from tests.chaos.scenario import OPA_TIMEOUT_S, Agent
from tests.chaos.site import Site
from tests.chaos.watch import Sight, Watch, read_only
from tests.flows.test_engine_away import Link
from tests.outside.checker import engine
from tests.outside.record import FINAL

PROBES, PROBES_BEFORE = 800, 200
ROUTE_P99_S = 0.05
BUSY_S = 0.025
"""Messages that take longer although OPA answers say how busy the machine is."""
LOCK = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def _nothing() -> None:
    return


@dataclass
class Fault:
    """One fault. `undo` is called `lasts_s` after it began; from then on `is_over` asks what is seen.

    `claims` are what no other fault may hit meanwhile. `since` is CLOCK_BOOTTIME of the undoing.
    """

    kind: str
    target: str
    claims: frozenset[str]
    is_over: Callable[[Sight, float], bool]
    lasts_s: float = 0.0
    undo: Callable[[], None] = _nothing
    began: float = 0.0
    since: float = 0.0


@dataclass
class Waits:
    """How long messages took, in seconds, just before OPA hung and while it did, of all times in a run together.

    The first few wait for it until the breaker opens, and then one whenever it is tried again: that is about half of
    the one in a hundred which is beyond p99. How busy the machine is shows in those before.
    """

    before_s: list[float] = field(default_factory=list)
    during_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        before, during = quantile(self.before_s, 0.99), quantile(self.during_s, 0.99)
        return f"p99 of the route: {during * 1000:.0f} ms while OPA hung, {before * 1000:.0f} ms before"

    def faults(self) -> list[str]:
        """Where the machine was too busy for p99 to say anything, half of the messages must still not have waited."""
        if not self.during_s:
            return []
        before = quantile(self.before_s, 0.99)
        if before > BUSY_S:
            return [f"half waited; {self}"] if quantile(self.during_s, 0.5) >= OPA_TIMEOUT_S else []
        return [str(self)] if quantile(self.during_s, 0.99) > ROUTE_P99_S + before else []


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]


@dataclass(frozen=True)
class Field:
    """What faults work on. `chance` decides everything that is left open; `waits` are of messages while OPA hangs."""

    site: Site
    watch: Watch
    mail: Mail
    chance: random.Random
    waits: Waits
    link: Link | None = None

    def pick_instance(self, free: Callable[[str], bool]) -> str | None:
        """One that is there and not under fire; of several rather one that has not crashed often."""
        sight = self.watch.sight
        names = [n for n in self.site.instances() if sight.phases.get(n) == "executing" and free(n)]
        self.chance.shuffle(names)
        return min(names, key=lambda n: sight.crashes.get(n, 0), default=None)


Free = Callable[[str], bool]
Kind = Callable[[Field, Free], Fault | None]


def hub_kill(field: Field, free: Free) -> Fault | None:
    return _hub(field, "hub-kill", signal.SIGKILL)


def hub_stop(field: Field, free: Free) -> Fault | None:
    return _hub(field, "hub-stop", signal.SIGSTOP)


def _hub(field: Field, kind: str, number: signal.Signals) -> Fault | None:
    found = processes.hub(field.site)
    if found is None or not field.watch.sight.is_hub_ready or not found.send(number):
        return None
    is_kill = number is signal.SIGKILL
    if is_kill and field.site.hub is not None:
        field.site.hub.wait()
    return Fault(
        kind=kind,
        target=f"pid {found.pid}",
        claims=frozenset({"hub"}),
        lasts_s=field.chance.uniform(0.0, 1.0 if is_kill else 2.5),
        undo=field.site.start_hub if is_kill else lambda: _resume(found),
        is_over=lambda sight, since: sight.at > since and sight.is_hub_ready,
    )


def _resume(process: Process) -> None:
    process.send(signal.SIGCONT)


def router_kill(field: Field, free: Free) -> Fault | None:
    return _router(field, "router-kill", processes.router(field.site), signal.SIGKILL)


def router_stop(field: Field, free: Free) -> Fault | None:
    return _router(field, "router-stop", processes.router(field.site), signal.SIGSTOP)


def writer_kill(field: Field, free: Free) -> Fault | None:
    return _router(field, "writer-kill", processes.writer(field.site), signal.SIGKILL)


def writer_stop(field: Field, free: Free) -> Fault | None:
    return _router(field, "writer-stop", processes.writer(field.site), signal.SIGSTOP)


def _router(field: Field, kind: str, found: Process | None, number: signal.Signals) -> Fault | None:
    if found is None or not found.send(number):
        return None
    return Fault(
        kind=kind,
        target=f"pid {found.pid}",
        claims=frozenset({"router"}),
        lasts_s=0.0 if number is signal.SIGKILL else field.chance.uniform(0.1, 2.5),
        undo=_nothing if number is signal.SIGKILL else lambda: _resume(found),
        is_over=lambda sight, since: _is_routing(field, sight, since),
    )


def _is_routing(field: Field, sight: Sight, since: float) -> bool:
    """Everybody calls again, and a message was accepted."""
    called = [sight.instances.get(i, {"hello": None, "last_seen": 0.0}) for i in field.site.instances()]
    heard = [c for c in called if c["hello"] is not None and c["last_seen"] > since]
    return len(heard) >= len(called) / 2 and field.mail.last_accepted > since


def worker_kill(field: Field, free: Free) -> Fault | None:
    return _helper(field, "worker-kill", processes.workers(field.site), signal.SIGKILL)


def worker_stop(field: Field, free: Free) -> Fault | None:
    return _helper(field, "worker-stop", processes.workers(field.site), signal.SIGSTOP)


def opa_kill(field: Field, free: Free) -> Fault | None:
    found = processes.opa(field.site)
    return _helper(field, "opa-kill", [found] if found else [], signal.SIGKILL, lambda: processes.opa(field.site))


def opa_stop(field: Field, free: Free) -> Fault | None:
    found = processes.opa(field.site)
    return _helper(field, "opa-stop", [found] if found else [], signal.SIGSTOP)


def opa_hang(field: Field, free: Free) -> Fault | None:
    """Messages one after the other before OPA hangs and while it does: `Waits` says how much longer they may take."""
    found = processes.opa(field.site)
    if found is None or field.watch.sight.engine != "opa" or not field.mail.is_answered_at_once():
        return None
    before = field.mail.probe(PROBES_BEFORE)
    if len(before) < PROBES_BEFORE or not found.send(signal.SIGSTOP):
        return None
    during = field.mail.probe(PROBES)
    field.waits.before_s.extend(before)
    field.waits.during_s.extend(during)
    slow = sum(wait >= OPA_TIMEOUT_S for wait in during)
    return Fault(
        kind="opa-hang",
        target=f"pid {found.pid}, {slow} of {len(during)} messages waited for it, in {sum(during):.1f} s",
        claims=frozenset({"opa"}),
        undo=lambda: _resume(found),
        is_over=lambda sight, since: field.mail.last_accepted > since,
    )


def egress_kill(field: Field, free: Free) -> Fault | None:
    found = processes.egress(field.site)
    return _helper(field, "egress-kill", [found] if found else [], signal.SIGKILL, lambda: processes.egress(field.site))


def egress_stop(field: Field, free: Free) -> Fault | None:
    found = processes.egress(field.site)
    return _helper(field, "egress-stop", [found] if found else [], signal.SIGSTOP)


def _helper(
    field: Field,
    kind: str,
    found: Sequence[Process],
    number: signal.Signals,
    is_again: Callable[[], object] = lambda: True,
) -> Fault | None:
    """Nobody waits for it: messages are accepted all the time, and where it must come back it does."""
    victim = field.chance.choice(found) if found else None
    if victim is None or not victim.send(number):
        return None
    return Fault(
        kind=kind,
        target=f"pid {victim.pid}",
        claims=frozenset({kind.partition("-")[0]}),
        lasts_s=0.0 if number is signal.SIGKILL else field.chance.uniform(0.2, 2.0),
        undo=_nothing if number is signal.SIGKILL else lambda: _resume(victim),
        is_over=lambda sight, since: field.mail.last_accepted > since and bool(is_again()),
    )


def agentd_kill(field: Field, free: Free) -> Fault | None:
    return _instance(field, free, "agentd-kill", processes.agentd, signal.SIGKILL, 0.0)


def agentd_stop(field: Field, free: Free) -> Fault | None:
    return _instance(field, free, "agentd-stop", processes.agentd, signal.SIGSTOP, field.chance.uniform(0.1, 1.0))


def agentd_hang(field: Field, free: Free) -> Fault | None:
    """Past its lease, while what it executes goes on, and talks."""
    lasts_s = field.chance.uniform(2.0, 4.0)
    return _instance(field, partial(_works, field, free), "agentd-hang", processes.agentd, signal.SIGSTOP, lasts_s)


def _works(field: Field, free: Free, instance: str) -> bool:
    """Whether it is free and executes something."""
    return free(instance) and bool(processes.executors(field.site, instance))


def container_kill(field: Field, free: Free) -> Fault | None:
    return _instance(field, free, "container-kill", processes.root, signal.SIGKILL, 0.0)


def _instance(
    field: Field,
    free: Free,
    kind: str,
    find: Callable[[Site, str], Process | None],
    number: signal.Signals,
    lasts_s: float,
) -> Fault | None:
    name = field.pick_instance(free)
    found = find(field.site, name) if name else None
    daemon = processes.agentd(field.site, name) if name else None
    if name is None or found is None or not found.send(number):
        return None
    if number is signal.SIGKILL:
        return _gone(field, kind, name, daemon)
    return Fault(
        kind=kind,
        target=name,
        claims=frozenset({name}),
        lasts_s=lasts_s,
        undo=lambda: _resume(found),
        is_over=lambda sight, since: sight.is_back(name, since) or name not in field.site.instances(),
    )


def _gone(
    field: Field,
    kind: str,
    name: str,
    daemon: Process | None,
    lasts_s: float = 0.0,
    undo: Callable[[], None] = _nothing,
) -> Fault:
    """Its container has ended, or is about to: another daemon has to call."""

    def is_over(sight: Sight, since: float) -> bool:
        is_wanted = name in field.site.instances()
        now = processes.agentd(field.site, name)
        return sight.is_back(name, since) and now not in (None, daemon) if is_wanted else now is None

    return Fault(kind, name, frozenset({name}), is_over, lasts_s, undo)


def executor_kill(field: Field, free: Free) -> Fault | None:
    return _executor(field, free, "executor-kill", signal.SIGKILL, 0.0)


def executor_stop(field: Field, free: Free) -> Fault | None:
    return _executor(field, free, "executor-stop", signal.SIGSTOP, field.chance.uniform(0.1, 2.0))


def _executor(field: Field, free: Free, kind: str, number: signal.Signals, lasts_s: float) -> Fault | None:
    names = [n for n in field.site.instances() if free(n)]
    field.chance.shuffle(names)
    for name in names:
        for found in processes.executors(field.site, name):
            task = found.variable("HUB_TASK")
            before = _how_far(field.site, task)
            if before is not None and found.send(number):
                is_over = partial(_is_further, field.site, task, before)
                undo = partial(_resume, found)
                return Fault(kind, f"{task} on {name}", frozenset({name}), is_over, lasts_s, undo)
    return None


def _how_far(site: Site, task: str) -> int | None:
    """The generation of a task that is on its way."""
    with suppress(sqlite3.Error), closing(read_only(site)) as state:
        row = state.execute("SELECT generation FROM task WHERE name = ? AND state = 'running'", (task,)).fetchone()
        return int(row[0]) if row else None
    return None


def _is_further(site: Site, task: str, generation: int, _sight: Sight, _since: float) -> bool:
    """Whether it has come to an end, or goes on in a later generation."""
    with suppress(sqlite3.Error), closing(read_only(site)) as state:
        row = state.execute("SELECT generation, state FROM task WHERE name = ?", (task,)).fetchone()
        return bool(row) and (row[0] > generation or row[1] in FINAL)
    return False


def container_remove(field: Field, free: Free) -> Fault | None:
    """By hand: as somebody would who knows nothing of us."""
    name = field.pick_instance(free)
    if name is None:
        return None
    if field.site.runtime == "process":
        first, daemon = processes.root(field.site, name), processes.agentd(field.site, name)
        folder, away = field.site.run / "process" / name, field.site.fleet.folder / f"removed-{name}"
        if first is None:
            return None
        with suppress(FileNotFoundError):  # at once, since the hub may put something into it meanwhile
            folder.rename(away)
        first.send(signal.SIGKILL)
        shutil.rmtree(away, ignore_errors=True)
        return _gone(field, "container-remove", name, daemon)
    return _by_hand(field, "container-remove", name, "DELETE", "?force=1")


def container_pause(field: Field, free: Free) -> Fault | None:
    name = field.pick_instance(free)
    return _by_hand(field, "container-pause", name, "POST", "/pause") if name else None


def _by_hand(field: Field, kind: str, name: str, method: str, tail: str) -> Fault | None:
    daemon = processes.agentd(field.site, name)
    with suppress(AssertionError, OSError):
        engine(method, f"/containers/reconciler-{field.site.fleet.id}-{name}{tail}")
        return _gone(field, kind, name, daemon)
    return None


def container_relabel(field: Field, free: Free) -> Fault | None:
    """Its container is made again by hand, with a seal that is not ours; after a while the person thinks better of it.

    Nobody but that person may touch it.
    """
    name = field.pick_instance(free)
    if name is None:
        return None
    target = f"/containers/reconciler-{field.site.fleet.id}-{name}"
    command = ["docker", "create", "--name", target.rpartition("/")[2], "--network", "none"]
    daemon = processes.agentd(field.site, name)
    try:
        labels = engine("GET", f"{target}/json")["Config"]["Labels"]
        sealed = [key for key in labels if key.endswith("seal")]
        assert sealed, labels
        forged = {**labels, **dict.fromkeys(sealed, "0" * 64)}
        engine("DELETE", f"{target}?force=1")
        options = [part for key, value in forged.items() for part in ("--label", f"{key}={value}")]
        made = subprocess.run(
            [*command, *options, "agents/base:1", "true"], check=False, capture_output=True, text=True
        )
    except (AssertionError, OSError):
        return None
    if made.returncode:
        return None
    foreign = made.stdout.strip()

    def think_better() -> None:
        engine("GET", f"/containers/{foreign}/json")
        engine("DELETE", f"/containers/{foreign}?force=1")

    fault = _gone(field, "container-relabel", name, daemon, field.chance.uniform(0.5, 1.5), think_better)
    return replace(fault, claims=fault.claims | {"dockerd"})


def state_lock(field: Field, free: Free) -> Fault | None:
    return _lock(field, "state-lock", "state.db", lambda sight, since: sight.at > since and sight.is_hub_ready)


def traffic_lock(field: Field, free: Free) -> Fault | None:
    return _lock(field, "traffic-lock", "traffic.db", lambda sight, since: field.mail.last_accepted > since)


def _lock(field: Field, kind: str, file: str, is_over: Callable[[Sight, float], bool]) -> Fault | None:
    """Another process holds the database's write lock, sometimes for longer than anybody waits for it."""
    lasts_s = field.chance.choice((0.3, 0.5, 1.0, 1.0, 6.0))
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(field.site.fleet.data / file), str(lasts_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert holder.stdout is not None
    held = holder.stdout.readline()
    holder.stdout.close()
    if not held:
        holder.wait()
        return None

    def let_go() -> None:
        holder.kill()
        holder.wait()

    return Fault(kind, file, frozenset({"disk"}), is_over, lasts_s, let_go)


def disk_full(field: Field, free: Free) -> Fault | None:
    """Somebody else's file takes the last byte of the data directory."""
    if not field.site.is_mounted:
        return None
    ballast = field.site.fleet.data / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(2**16))
    return Fault(
        kind="disk-full",
        target=f"{ballast.stat().st_size >> 20} MiB",
        claims=frozenset({"disk"}),
        lasts_s=field.chance.uniform(0.3, 2.0),
        undo=lambda: ballast.unlink(),
        is_over=lambda sight, since: sight.at > since and sight.is_hub_ready and field.mail.last_accepted > since,
    )


def clock_jump(field: Field, free: Free) -> Fault | None:
    """An hour on or back, on the hub's wall clock only; it stays there for a while."""
    offset = field.chance.choice((3600, -3600))
    field.site.set_clock(offset)
    return Fault(
        kind="clock-jump",
        target=f"{offset:+d} s",
        claims=frozenset({"clock"}),
        lasts_s=field.chance.uniform(1.0, 4.0),
        undo=lambda: field.site.set_clock(0),
        is_over=lambda sight, since: sight.at > since and sight.is_hub_ready,
    )


def commit(field: Field, free: Free) -> Fault | None:
    """In the middle of everything: an agent changes, comes or goes, and there are new tasks."""
    agents, chance = field.site.scenario.agents, field.chance
    extra = sorted(n for n in agents if n.startswith("x"))
    what = chance.choice(("change", "change", "limits", "come or go"))
    if what == "come or go" and extra:
        del agents[extra[0]]
        name = extra[0]
    elif what == "come or go":
        name = "x0"
        agents[name] = Agent(name, 1)
    else:
        name = _most_crashed(field)
        agent = agents[name]
        other = 160 if agent.memory_mib == 128 else 128
        agents[name] = replace(agent, serial=agent.serial + 1) if what == "change" else replace(agent, memory_mib=other)
    for _ in range(chance.randrange(3)):
        task = replace(next(field.site.scenario.tasks), way="git")
        field.site.git_tasks[task.name] = task
    field.site.commit(f"{what} {name}")
    return Fault("commit", f"{what} {name}", frozenset({"git"}), lambda sight, since: _is_applied(field, sight))


def _most_crashed(field: Field) -> str:
    """A commit ends back-off, so it is spent on who needs it most."""
    crashes = field.watch.sight.crashes
    names = [n for n in field.site.scenario.agents if not n.startswith("x")]
    return max(names, key=lambda n: (crashes.get(f"{n}-0", 0), field.chance.random()))


def _is_applied(field: Field, sight: Sight) -> bool:
    return sight.phases.keys() == set(field.site.instances()) and not field.site.check()


def late_report(field: Field, free: Free) -> Fault | None:
    """An execution that was given up long ago reports its result, from the instance that has the task now."""
    with suppress(sqlite3.Error), closing(read_only(field.site)) as state:
        rows = state.execute("SELECT name, run, generation, instance FROM task WHERE state = 'running'").fetchall()
        field.chance.shuffle(rows)
        before = _refusals(field.site)
        for name, run, generation, instance in rows:
            if report_late(field.site, instance, {"task": name, "run": run, "generation": generation - 1}):
                return Fault(
                    kind="late-report",
                    target=f"{name} on {instance}",
                    claims=frozenset({"report"}),
                    is_over=partial(_is_heard, field.site, before, name, generation),
                )
    return None


def _is_heard(site: Site, before: int, task: str, generation: int, sight: Sight, since: float) -> bool:
    """Whether one more report was refused, or the task is over all the same: then the checker has something to say."""
    return _refusals(site) > before or _is_further(site, task, generation, sight, since)


def _refusals(site: Site) -> int:
    """Reports that were not taken for what they say."""
    with suppress(sqlite3.Error), closing(read_only(site)) as state:
        question = "SELECT count(*) FROM audit WHERE action = 'task.completed' AND outcome = 'refused'"
        return int(state.execute(question).fetchone()[0])
    return 0


def engine_cut(field: Field, free: Free) -> Fault | None:
    """The engine does not answer the hub any more; containers go on."""
    if field.link is None:
        return None
    field.link.cut()
    return Fault(
        kind="engine-cut",
        target=str(field.link.path),
        claims=frozenset({"engine"}),
        lasts_s=field.chance.uniform(0.2, 3.0),
        undo=field.link.mend,
        is_over=lambda sight, since: sight.at > since and sight.is_hub_ready and _has_engine(field.site),
    )


def engine_restart(field: Field, free: Free) -> Fault | None:
    """The engine itself is ended, in turn so that it ends its containers too and so that it cannot; meanwhile there is
    a commit, which is about some of the agents only."""
    own, agents = field.site.own_engine, field.site.scenario.agents
    if own is None:
        return None
    number = (signal.SIGTERM, signal.SIGKILL)[own.ends % 2]
    own.end(number)
    changed = [name for name in sorted(agents) if field.chance.random() < 0.5]
    agents |= {name: replace(agents[name], serial=agents[name].serial + 1) for name in changed}
    field.site.commit(f"change {changed}")

    def is_over(sight: Sight, since: float) -> bool:
        is_here = sight.at > since and sight.is_hub_ready and _has_engine(field.site)
        return is_here and all(sight.is_back(name, since) for name in field.site.instances())

    lasts_s = field.chance.uniform(0.1, 2.0)
    target = f"{number.name}, and a change of {', '.join(changed) or 'nobody'}"
    return Fault("engine-restart", target, frozenset({"engine", "dockerd"}), is_over, lasts_s, own.start)


def _has_engine(site: Site) -> bool:
    with suppress(sqlite3.Error), closing(read_only(site)) as state:
        question = "SELECT count(*) FROM condition WHERE type = 'RuntimeUnavailable' AND status = 1"
        return not state.execute(question).fetchone()[0]
    return False


KINDS: Mapping[str, Kind] = {
    "hub-kill": hub_kill,
    "hub-stop": hub_stop,
    "router-kill": router_kill,
    "router-stop": router_stop,
    "writer-kill": writer_kill,
    "writer-stop": writer_stop,
    "worker-kill": worker_kill,
    "worker-stop": worker_stop,
    "opa-kill": opa_kill,
    "opa-stop": opa_stop,
    "opa-hang": opa_hang,
    "egress-kill": egress_kill,
    "egress-stop": egress_stop,
    "agentd-kill": agentd_kill,
    "agentd-stop": agentd_stop,
    "agentd-hang": agentd_hang,
    "executor-kill": executor_kill,
    "executor-stop": executor_stop,
    "container-kill": container_kill,
    "container-remove": container_remove,
    "container-pause": container_pause,
    "container-relabel": container_relabel,
    "state-lock": state_lock,
    "traffic-lock": traffic_lock,
    "disk-full": disk_full,
    "clock-jump": clock_jump,
    "commit": commit,
    "late-report": late_report,
    "engine-cut": engine_cut,
    "engine-restart": engine_restart,
}
