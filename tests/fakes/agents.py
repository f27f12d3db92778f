"""What `agentd` does, in memory: say hello, call, take assignments, report; in every container that runs."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.reading import Ok
from reconciler.runtime.fake import FakeRuntime
from tests.fakes.router import FakeRouter


@dataclass(frozen=True, slots=True)
class Work:
    """One execution of a run, in one life of one container."""

    run: str
    task: str
    generation: int

    @property
    def kind(self) -> str:
        """The name of the task; `check` for any check of a result."""
        return "check" if self.task.startswith("check-") else self.task


@dataclass(slots=True)
class Daemon:
    """The daemon of one container. `known` is what it has ever been given."""

    doing: list[Work] = field(default_factory=list)
    known: set[tuple[str, int]] = field(default_factory=set)


class FakeAgents:
    """All daemons of a fleet. `step` lets each do one thing: a task is begun in one step and ended in a later one.

    `executed` lists every execution that was begun; `violations` says where two ran at the same time.
    `holding` names tasks that are begun, but not ended, `failing` how often a task fails; both by kind of work.
    `saying` has the next results of an agent, `told` every assignment's payload. `answers` says who was answered which
    request by the hub, and what.
    """

    def __init__(self, runtime: FakeRuntime, router: FakeRouter) -> None:
        self.executed: list[Work] = []
        self.violations: list[str] = []
        self.holding: set[str] = set()
        self.failing: dict[str, int] = {}
        self.saying: dict[str, list[object]] = {}
        self.told: list[Mapping[str, Any]] = []
        self.answers: list[tuple[str, str, Mapping[str, Any]]] = []
        self.silent: set[str] = set()
        self._runtime, self._router = runtime, router
        self._daemons: dict[str, Daemon] = {}

    def copy(self, runtime: FakeRuntime, router: FakeRouter) -> "FakeAgents":
        """The same daemons, over copies of runtime and router."""
        other = FakeAgents(runtime, router)
        kept = {k: v for k, v in vars(self).items() if k not in ("_runtime", "_router")}
        vars(other).update(copy.deepcopy(kept))
        return other

    def step(self) -> None:
        running = self._lives()
        self._daemons = {life: self._daemons.get(life, Daemon()) for life in running}
        for life, name in running.items():
            if name in self._router.instances and name not in self.silent:
                self._call(name, self._daemons[life])
        self._look_for_twins()

    def doing(self) -> list[Work]:
        """What is being executed now, anywhere."""
        return [w for d in self._daemons.values() for w in d.doing]

    def _lives(self) -> dict[str, str]:
        """The instance by life of a container: a restart in the same container is another life."""
        listed = self._runtime.list()
        found: dict[str, str] = {}
        for summary in listed.value if isinstance(listed, Ok) else ():
            state = self._runtime.inspect(summary.name)
            if isinstance(state, Ok) and state.value.state == "running":
                found[f"{summary.id} {state.value.started_at}"] = summary.name
        return found

    def _call(self, name: str, daemon: Daemon) -> None:
        registered = self._router.instances[name]
        self._router.beat(name)
        if registered.hello is None:
            self._router.hello(name, self._hello(name))
        for work in [w for w in daemon.doing if w.kind not in self.holding]:
            daemon.doing.remove(work)
            self._end(name, work)
        for message in registered.mailbox:
            self._take(name, daemon, message)
        registered.mailbox = []
        for order in self._router.cancels.get(name, ()):
            self._cancel(name, daemon, order)

    def _hello(self, name: str) -> Mapping[str, Any]:
        state = self._runtime.inspect(name)
        assert isinstance(state, Ok)
        config = json.loads(state.value.fields["env"]["HUB_CONFIG"])
        return {
            "version": config["version"],
            "capabilities": config["capabilities"],
            "executor": config["executor"]["type"],
        }

    def _take(self, name: str, daemon: Daemon, message: Mapping[str, Any]) -> None:
        payload = message["payload"]
        if message["pattern"] == "reply":
            self.answers.append((name, message["correlation_id"], payload))
            return
        if message["type"] == "task.cancel":
            self._cancel(name, daemon, payload)
            return
        key = (payload["run"], payload["generation"])
        if message["type"] != "task.assigned" or key in daemon.known:
            return
        daemon.known.add(key)
        work = Work(payload["run"], payload["task"], payload["generation"])
        daemon.doing.append(work)
        self.executed.append(work)
        self.told.append(payload)
        self._router.post(name, "task.started", _said(work))

    def _end(self, name: str, work: Work) -> None:
        if self.failing.get(work.kind, 0) > 0:
            self.failing[work.kind] -= 1
            failed = {"reason": "exit", "exit_code": 1, "error": "it broke", "stderr_tail": "", "duration_s": 1.0}
            self._router.post(name, "task.failed", {**_said(work), **failed})
            return
        said = self.saying.get(name.rpartition("-")[0])
        result = said.pop(0) if said else {"by": name}
        completed = {"exit_code": 0, "result": result, "artefacts": [], "duration_s": 1.0}
        self._router.post(name, "task.completed", {**_said(work), **completed})

    def _cancel(self, name: str, daemon: Daemon, order: Mapping[str, Any]) -> None:
        work = Work(order["run"], order["task"], order["generation"])
        key = (work.run, work.generation)
        if work not in daemon.doing and key in daemon.known:
            return
        if work in daemon.doing:
            daemon.doing.remove(work)
        daemon.known.add(key)
        cancelled = {"reason": "cancelled", "exit_code": None, "error": "", "stderr_tail": "", "duration_s": 1.0}
        self._router.post(name, "task.failed", {**_said(work), **cancelled})

    def _look_for_twins(self) -> None:
        runs = [w.run for w in self.doing()]
        self.violations.extend(f"run {r} is executed twice at once" for r in set(runs) if runs.count(r) > 1)


def _said(work: Work) -> dict[str, Any]:
    return {"task": work.task, "run": work.run, "generation": work.generation}
