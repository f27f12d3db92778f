"""The driver: faults in quick succession against one fleet at work, then quiet, then every invariant from outside.

A fault begins as soon as nothing else of its target is under fire and no more than `width` are going on. How long the
fleet takes to get over it is counted from its undoing. A run that fails prints its seed and a timeline.
"""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from tests.chaos import processes
from tests.chaos.faults import KINDS, Fault, Field, Waits
from tests.chaos.mail import Mail
from tests.chaos.scenario import Task
from tests.chaos.site import Site, call
from tests.chaos.watch import Watch, boottime, conditions
from tests.flows.test_engine_away import Link
from tests.outside.checker import engine_socket
from tests.outside.record import FINAL, Made, check_chain, check_intents, check_reports, check_tasks

WIDTH = 7
STEP_S = 0.03
START_S = 240.0
RECOVER_S = 240.0
PATIENCE_S = 30.0
QUIET_S = 240.0
TRIES = 2000
"""How often a fault's target may be missing, at one step after the other, before it is given up."""


@dataclass
class Outcome:
    """What a run came to. `counts` and `longest_s` are by kind; `wrong` is empty where all invariants hold."""

    seed: int
    counts: dict[str, int] = field(default_factory=dict)
    longest_s: dict[str, float] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    timeline: list[str] = field(default_factory=list)
    tasks: int = 0
    executions: int = 0
    messages: int = 0
    route: str = ""
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def table(self) -> str:
        """One line per kind of fault."""
        lines = [f"{'fault':<20}{'count':>6}{'longest time to recover':>26}"]
        lines += [f"{k:<20}{n:>6}{self.longest_s.get(k, 0.0):>24.2f} s" for k, n in sorted(self.counts.items())]
        lines += [f"{'all':<20}{self.total:>6}{max(self.longest_s.values(), default=0.0):>24.2f} s"]
        work = f"{self.tasks} tasks in {self.executions} executions, {self.messages} messages"
        return "\n".join([*lines, *filter(None, [self.route]), f"{work}, {self.seconds:.0f} s, seed {self.seed}"])

    def story(self) -> str:
        """What a person needs to understand a failed run, and to have it again."""
        return "\n".join([*self.timeline, "", *self.wrong, "", f"seed {self.seed}", self.table()])


class Driver:
    """Runs one scenario on one site."""

    def __init__(self, site: Site, width: int = WIDTH) -> None:
        self._width = width
        self.outcome = Outcome(seed=site.scenario.seed)
        self._site = site
        self._watch = Watch(site)
        self._mail = Mail(site)
        self._link = Link(site.engine_link) if site.runtime == "docker" else None
        self._field = Field(site, self._watch, self._mail, site.scenario.chance, Waits(), self._link)
        self._births = _Births(site)
        self._open: list[Fault] = []
        self._promised: dict[str, Task] = {}
        self._began = time.monotonic()
        self._insist_at = 0.0
        self._unsaid: Task | None = None

    def run(self) -> Outcome:
        """Everything, to its end; never raises for what the fleet did."""
        try:
            self._start()
            self._fire()
            self._calm_down()
            self._judge()
        except GiveUpError as error:
            self.outcome.wrong.append(str(error))
            if self._births.has_begun:
                self.outcome.wrong.extend(self._found_wrong())
        finally:
            for fault in self._open:
                with suppress(Exception):
                    fault.undo()
            self._mail.close()
            self._watch.close()
            self._births.close()
            if self._link is not None:
                self._link.cut()
                self._link.join()
        self.outcome.seconds = time.monotonic() - self._began
        return self.outcome

    def _start(self) -> None:
        self._site.commit("the fleet")
        self._site.start_hub()
        self._wait((self._site.fleet.data / "fleet.json").exists, START_S, "the hub did not start")
        self._births.start()
        self._watch.start()
        self._wait(self._is_whole, START_S, "the fleet did not come up")
        self._mail.start()
        self._wait(lambda: self._mail.last_accepted > 0, START_S, "no message was accepted")
        self._say("the fleet is up")

    def _is_whole(self) -> bool:
        sight = self._watch.sight
        wanted = self._site.instances()
        return (
            sight.is_hub_ready
            and sight.phases.keys() == set(wanted)
            and all(sight.is_back(i, 0.0) for i in wanted)
            and not self._site.check()
        )

    def _fire(self) -> None:
        waiting = [(kind, 0) for kind in self._site.scenario.faults]
        while waiting or self._open:
            if len(self._open) < self._width and waiting:
                waiting = self._begin_one(waiting)
            self._step()

    def _begin_one(self, waiting: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """The first whose target is there and free; others keep their place."""
        for number, (kind, tries) in enumerate(waiting[:8]):
            claimed = frozenset(c for f in self._open for c in f.claims)
            if kind.partition("-")[0] in claimed or _needs(kind) & claimed:
                continue
            fault = KINDS[kind](self._field, self._is_free)
            rest = waiting[:number] + waiting[number + 1 :]
            if fault is None and tries + 1 >= TRIES:
                self.outcome.missed.append(kind)
                self._say(f"gave up on {kind}: no target")
                return rest
            if fault is None:
                return [*rest, (kind, tries + 1)]
            fault.began = boottime()
            self._open.append(fault)
            self._say(f"{fault.kind} {fault.target} for {fault.lasts_s:.1f} s")
            return rest
        return waiting

    def _is_free(self, instance: str) -> bool:
        return not any(instance in fault.claims for fault in self._open)

    def _step(self) -> None:
        time.sleep(STEP_S)
        self._feed()
        self._keep_hub()
        self._insist()
        if self._site.is_taken:
            raise GiveUpError("a task was executed twice at once")
        now, sight = boottime(), self._watch.sight
        for fault in list(self._open):
            if not fault.since and now - fault.began >= fault.lasts_s:
                self._undo(fault)
                fault.since = boottime()
            elif fault.since and fault.is_over(sight, fault.since):
                self._end(fault, now)
            elif fault.since and now - fault.since > RECOVER_S:
                raise GiveUpError(
                    f"{fault.kind} {fault.target}: not recovered within {RECOVER_S:.0f} s; {self._state_of_things()}"
                )

    def _undo(self, fault: Fault) -> None:
        try:
            fault.undo()
        except AssertionError as error:
            self.outcome.wrong.append(f"{fault.kind} {fault.target}: somebody interfered: {error}")

    def _end(self, fault: Fault, now: float) -> None:
        self._open.remove(fault)
        took = now - fault.since
        self.outcome.counts[fault.kind] = self.outcome.counts.get(fault.kind, 0) + 1
        self.outcome.longest_s[fault.kind] = max(took, self.outcome.longest_s.get(fault.kind, 0.0))
        self._say(f"over it after {took:.2f} s: {fault.kind} {fault.target}")

    def _keep_hub(self) -> None:
        """A hub that ended by itself is started again, as a service manager would; only the disk excuses it."""
        hub = self._site.hub
        if hub is None or hub.poll() is None or any(f.kind == "hub-kill" and not f.since for f in self._open):
            return
        said = (self._site.fleet.folder / "hub.log").read_text(errors="replace").splitlines()[-3:]
        self._say(f"the hub ended by itself with {hub.returncode}: {said}")
        if not any("disk" in f.claims for f in self._open):
            raise GiveUpError(f"the hub ended by itself with {hub.returncode}: {said}")
        self._site.start_hub()

    def _insist(self) -> None:
        """Commit what a person would: after a roll-out that we shot down, and for what waits after so many crashes."""
        if time.monotonic() < self._insist_at:
            return
        self._insist_at = time.monotonic() + 1.0
        down = [(subject, type_) for subject, type_, _ in conditions(self._site)]
        names = {
            subject.removeprefix("agent/"): "its roll-out was taken back" for subject, t in down if t == "RolledBack"
        }
        late = (f for f in self._open if f.since and boottime() - f.since > PATIENCE_S)
        names |= {fault.target.rpartition("-")[0]: "it waits after many crashes" for fault in late}
        agents = self._site.scenario.agents
        for name, why in names.items():
            if name in agents:
                agents[name] = replace(agents[name], serial=agents[name].serial + 1)
                self._insist_at += 2.0 if why.startswith("its roll-out") else PATIENCE_S
                self._site.commit(f"{name} once more")
                self._say(f"{why}, so there is another commit: {name}")

    def _feed(self) -> None:
        """Keep so many tasks under way; each is promised once the hub, or its inbox, has it."""
        states = self._watch.sight.tasks
        going = [n for n in self._promised if states.get(n) not in FINAL]
        promised_in_git = self._site.git_tasks.keys() - self._promised.keys()
        self._promised |= {n: self._site.git_tasks[n] for n in promised_in_git}
        if len(going) >= self._site.scenario.at_once or any(f.kind == "disk-full" for f in self._open):
            return
        if self._unsaid is not None:
            self._post(self._unsaid)
            return
        task = next(self._site.scenario.tasks)
        self._promised[task.name] = task
        if task.way == "inbox":
            self._drop(task)
        else:
            self._post(task)

    def _post(self, task: Task) -> None:
        """The same again and again until the hub says that it has it: its key makes that harmless."""
        self._unsaid = task
        with suppress(OSError):
            headers = {"Idempotency-Key": task.name}
            body = task.text().encode()
            if call(self._site.run / "api.sock", "POST", "/api/v1/tasks", body, headers, s=1.5).status == 202:
                self._unsaid = None

    def _has_said_all(self) -> bool:
        if self._unsaid is not None:
            self._post(self._unsaid)
        return self._unsaid is None

    def _drop(self, task: Task) -> None:
        inbox = self._site.fleet.repository / "inbox"
        inbox.mkdir(exist_ok=True)
        draft = inbox / f".{task.name}.yaml"
        draft.write_text(task.text())
        draft.rename(inbox / f"{task.name}.yaml")

    def _calm_down(self) -> None:
        """No more tasks, faults or messages; then wait until everything has come to rest."""
        self._say("quiet")
        self._mail.hush()
        states = self._watch
        self._wait(self._has_said_all, QUIET_S, "a task that the hub does not take")
        self._wait(
            lambda: all(states.sight.tasks.get(n) in FINAL for n in self._promised),
            QUIET_S,
            "tasks that never end",
        )
        self._wait(self._is_whole, QUIET_S, "the fleet is not what git says")
        self._wait(lambda: not self._mail.missing(self._watch), QUIET_S, "accepted messages do not arrive")
        self._wait(lambda: not self._unanswered(), QUIET_S, "dropped tasks have no answer")

    def _judge(self) -> None:
        self.outcome.wrong.extend(self._found_wrong())

    def _found_wrong(self) -> list[str]:
        site, data = self._site, self._site.fleet.data
        journal = site.journal
        self.outcome.tasks = len(self._promised)
        self.outcome.executions = sum(line["event"] == "start" for line in journal)
        self.outcome.messages = len(self._mail.sent)
        self.outcome.route = str(self._field.waits) if self._field.waits.during_s else ""
        wanted = {t.name: t.wanted for t in self._promised.values()}
        return [
            *site.check(),
            *check_tasks(data, journal, wanted),
            *check_reports(data),
            *check_chain(data),
            *check_intents(data, self._births.made),
            *(
                f"nobody saw {i} come to be"
                for i in site.instances()
                if i not in {m.instance for m in self._births.made}
            ),
            *self._mail.faults(self._watch),
            *self._field.waits.faults(),
            *processes.strays(site),
            *(f"{w} was dropped and has no answer" for w in self._unanswered()),
        ]

    def _unanswered(self) -> Sequence[str]:
        answers = self._site.fleet.repository / "inbox" / "accepted"
        dropped = [t.name for t in self._promised.values() if t.way == "inbox"]
        return [n for n in dropped if not (answers / f"{n}.result.json").exists()]

    def _wait(self, is_so: Callable[[], bool], within_s: float, else_: str) -> None:
        until = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > until:
                raise GiveUpError(f"{else_}, within {within_s:.0f} s; {self._state_of_things()}")
            self._keep_hub()
            self._insist()
            time.sleep(STEP_S * 3)

    def _state_of_things(self) -> str:
        sight = self._watch.sight
        going = {n: sight.tasks.get(n) for n in self._promised if sight.tasks.get(n) not in FINAL}
        seen = f"hub ready {sight.is_hub_ready}, epoch {sight.epoch}, phases {dict(sight.phases)}, tasks {going}"
        if not self._births.has_begun:
            return seen
        return f"{seen}, {self._site.check()}, {conditions(self._site)}\n{self._site.fleet.evidence()}"

    def _say(self, what: str) -> None:
        line = f"{time.monotonic() - self._began:7.2f}  {what}"
        self.outcome.timeline.append(line)
        with (self._site.fleet.folder / "timeline").open("a") as out:
            out.write(f"{line}\n")


def _needs(kind: str) -> frozenset[str]:
    """What must not be under fire already, besides the target itself."""
    words: Mapping[str, frozenset[str]] = {
        "writer": frozenset({"router"}),
        "state": frozenset({"disk"}),
        "traffic": frozenset({"disk"}),
        "commit": frozenset({"git"}),
        "opa": frozenset({"router", "disk"}),
        "opa-hang": frozenset({"router", "disk", "worker"}),
        "late": frozenset({"report", "hub"}),
        "disk": frozenset({"disk"}),
        "container": frozenset({"dockerd"}),
        "engine-restart": frozenset({"dockerd"}),
    }
    return words.get(kind) or words.get(kind.partition("-")[0], frozenset())


class GiveUpError(Exception):
    """The fleet did not get over something in time."""


class _Births:
    """When containers came to be: told by the engine's events, or by the processes that appear."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self._known: set[tuple[int, int]] = set()
        self.made: list[Made] = []
        work = self._follow_engine if site.runtime == "docker" else self._look
        self._thread = threading.Thread(target=work, daemon=True)
        self._connection: socket.socket | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there is a fleet to look at."""
        return self._thread.ident is not None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(10)

    def _look(self) -> None:
        ticks = 100
        while not self._stop.wait(0.05):
            for name in self._site.instances():
                found = processes.agentd(self._site, name)
                if found is not None and (found.pid, found.start) not in self._known:
                    self._known.add((found.pid, found.start))
                    self.made.append(Made(name, f"pid {found.pid}", (found.start + 1) / ticks))

    def _follow_engine(self) -> None:
        since = 0.0
        while not self._stop.wait(0.05):
            with suppress(OSError, ValueError, http.client.HTTPException):
                for event in self._events(since):
                    since = event["timeNano"] / 1e9
                    self._note(event["Actor"], since - (time.time() - boottime()))

    def _events(self, since: float) -> Iterator[dict[str, Any]]:
        """Containers that the engine makes, until it ends, or this does; some come again where `since` is the last."""
        connection = http.client.HTTPConnection("engine")
        connection.sock = self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with closing(connection):
            connection.sock.connect(engine_socket())
            if self._stop.is_set():
                return
            label = f"io.reconciler.fleet={self._site.fleet.id}"
            filters = quote(json.dumps({"label": [label], "type": ["container"], "event": ["create"]}))
            connection.request("GET", f"/events?since={since:.9f}&filters={filters}")
            with connection.getresponse() as response:
                for line in response:
                    yield json.loads(line)

    def _note(self, actor: dict[str, Any], at: float) -> None:
        name, found = actor["Attributes"].get("io.reconciler.instance", ""), actor["ID"][:12]
        is_ours = name and actor["Attributes"].get("image") != "agents/base:1"
        if is_ours and all(made.id != found for made in self.made):
            self.made.append(Made(name, found, at))
