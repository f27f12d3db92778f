"""A whole hub over fakes: the real loop, kinds and state.db; source, runtime, router, policy and clock in memory."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler.core.change import Action, Change
from reconciler.core.fleet import AgentView
from reconciler.identity.secret_files import Secrets
from reconciler.kinds import KINDS
from reconciler.kinds.kind import LOOK_S, World
from reconciler.loop.inspections import Inspections
from reconciler.loop.run import Loop, PassReport
from reconciler.ports import ContainerSpec, Limits
from reconciler.settings import OperatorSpec
from reconciler.store import audit, records
from reconciler.store.audit import AuditEntry
from reconciler.store.records import InstanceRecord, TaskRecord
from tests.fakes.agents import FakeAgents
from tests.fakes.clock import FakeClock
from tests.fakes.egress import FakeEgress
from tests.fakes.fuse import Fuse
from tests.fakes.policy import FakePolicy
from tests.fakes.router import FakeRouter
from tests.fakes.runtime import FusedRuntime
from tests.fakes.secrets import FakeSecrets
from tests.fakes.source import FakeSource, Odd
from tests.fakes.store import FusedStore
from tests.fakes.texts import IMAGE, hub_text

FLEET = "0a1b2c3d"
SEAL_KEY = b"k" * 32
STEP_S = 0.5


class FakeFleet:
    """One hub and its world. `start_hub` begins another life of the hub over the same world and state.db."""

    def __init__(self, folder: Path, operator: OperatorSpec | None = None) -> None:
        self.folder = folder
        self.operator = operator or OperatorSpec()
        self.clock = FakeClock()
        self.source = FakeSource()
        self.runtime = FusedRuntime(FLEET)
        self.runtime.add_image(IMAGE, "sha256:base1")
        self.router = FakeRouter(self.clock)
        self.egress = FakeEgress()
        self.agents = FakeAgents(self.runtime, self.router)
        self.provider = FakeSecrets()
        self.store: FusedStore
        self.start_hub()

    def copy(self, folder: Path, fuse: Fuse | None = None) -> "FakeFleet":
        """Another fleet in the same state, whose hub is just starting. This one's hub must have ended."""
        shutil.copytree(self.folder, folder)
        other = copy.copy(self)
        other.folder = folder
        other.clock = copy.copy(self.clock)
        other.runtime = self.runtime.copy()
        other.router = self.router.copy(other.clock)
        other.egress = self.egress.copy()
        other.agents = self.agents.copy(other.runtime, other.router)
        other.start_hub(fuse)
        return other

    def start_hub(self, fuse: Fuse | None = None) -> None:
        """A fresh process: nothing in memory, the same state.db. `fuse` kills it."""
        self.fuse = fuse or Fuse()
        self.runtime.fuse = self.router.fuse = self.egress.fuse = self.fuse
        self.policy = FakePolicy()
        self.store = FusedStore(self.folder / "state.db", self.fuse)
        self.inspections = Inspections(self.runtime)
        self.world = World(
            fleet=FLEET,
            seal_key=SEAL_KEY,
            run=self.folder / "run",
            state=self.folder,
            store=self.store,
            runtime=self.runtime,
            router=self.router,
            egress=self.egress,
            policy=self.policy,
            source=self.source,
            clock=self.clock,
            inspections=self.inspections,
            operator=self.operator,
            secrets=Secrets(self.provider, now_s=self.clock.boottime, in_background=False),
        )
        self.loop = Loop(self.world, KINDS)

    def end_hub(self) -> None:
        """The process ends; router and containers go on."""
        self.loop.close()
        self.store.close()

    def restart(self) -> None:
        self.end_hub()
        self.start_hub()

    def commit(self, files: Mapping[str, bytes | str | Odd], *, hub: str | None = None) -> str:
        """A commit of exactly these files and `hub.yaml`; returns its id."""
        return self.source.commit({"hub.yaml": hub or hub_text(), **files})

    def look(self) -> PassReport:
        """One pass that changes nothing."""
        self.inspections.forget_all()
        return self.loop.run_pass(apply=False)

    def run(self) -> PassReport:
        """One pass, as after events for every container; then half a second goes by."""
        self.inspections.forget_all()
        report = self.loop.run_pass()
        self.clock.advance(STEP_S)
        return report

    def settle(self, max_passes: int = 40) -> PassReport:
        """Passes, with agents at work between them, until nothing is left to do. Fails where that is never so."""
        report = self.run()
        for _ in range(max_passes):
            if report.is_converged:
                return report
            self.agents.step()
            report = self.run()
        raise AssertionError(f"not converged after {max_passes} passes: {show(report)}")

    def watch(self, seconds: float, *, are_calling: bool = False) -> list[PassReport]:
        """Passes for so long, close enough to each other to know that the router answers."""
        until = self.clock.boottime() + seconds
        reports: list[PassReport] = []
        while self.clock.boottime() < until:
            if are_calling:
                self.agents.step()
            reports.append(self.run())
            self.clock.advance(LOOK_S)
        return reports

    # --- what is there ------------------------------------------------------------------------------------------------

    def instances(self) -> Mapping[str, InstanceRecord]:
        return records.instances(self.store)

    def tasks(self) -> Sequence[TaskRecord]:
        return records.tasks(self.store)

    def task(self, name: str) -> TaskRecord:
        """The newest run of that name."""
        return [t for t in self.tasks() if t.name == name][-1]

    def states(self) -> dict[str, str]:
        """State of the newest run by task name."""
        return {t.name: t.state for t in self.tasks()}

    def containers(self) -> dict[str, str]:
        """State by name of every container, whoever's it is."""
        return {c.name: c.state for c in self.runtime.list().value}  # type: ignore[union-attr]

    def audit(self) -> list[AuditEntry]:
        return [row.entry for row in audit.read(self.store, limit=100_000)]


def show(report: PassReport) -> list[tuple[str, str, str]]:
    """Unit, action and reason of what is left to do, with outcomes."""
    outcomes = {(d.change.unit, d.change.action): str(d.outcome) for d in report.done}
    return [
        (c.unit, str(c.action), outcomes.get((c.unit, c.action), c.reason))
        for c in report.plan.changes
        if c.action is not Action.KEEP
    ] + [("problem", "", str(p)) for p in report.problems]


def actions(report: PassReport, kind: str = "agent") -> dict[str, str]:
    """Action by instance or name of one kind."""
    return {c.instance or c.name: str(c.action) for c in report.plan.changes if c.kind == kind}


def change_of(report: PassReport, unit: str) -> Change:
    """The one change of a unit such as `agent/writer-0`."""
    found = [c for c in report.plan.changes if c.unit == unit]
    assert len(found) == 1, found
    return found[0]


def put_beside(fleet: FakeFleet, name: str, labels: Mapping[str, str]) -> str:
    """A running container that somebody made by hand, with our fleet's label and these; returns its id."""
    spec = ContainerSpec(
        name=name,
        image="x",
        image_id="sha256:base1",
        argv=("x",),
        env={},
        labels=labels,
        limits=Limits(cpus=1, memory_bytes=1, pids=1),
        mounts=(),
        disk_bytes=1,
        grace_s=1,
    )
    container_id = fleet.runtime.create(spec)
    fleet.runtime.start(container_id)
    return container_id


def agent_view(name: str = "writer", **more: Any) -> AgentView:
    """An agent of the fleet as tasks see it."""
    values: dict[str, Any] = {
        "name": name,
        "role": "writer",
        "labels": {},
        "capabilities": ("docs.write",),
        "max_parallel": 1,
        "sandboxed": True,
        "grace_s": 1.0,
        **more,
    }
    return AgentView(**values)


def told(report: PassReport) -> dict[str, str]:
    """Message by type of every condition that is true."""
    return {c.type: c.message for c in report.conditions}


def transitions(fleet: FakeFleet) -> list[tuple[str, str]]:
    """Type and first words of every audited change of a condition."""
    return [(e.action, e.reason.split(":")[0]) for e in fleet.audit() if e.kind == "condition"]
