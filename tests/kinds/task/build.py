"""Runs of tasks and a fleet of one ready writer, as tests of task planning need them."""

import json
from dataclasses import replace
from typing import Any

from reconciler.core.change import Change
from reconciler.core.fleet import AgentView, InstanceView
from reconciler.kinds.kind import Desired, Facts, Listening
from reconciler.kinds.manifest import Loaded, Manifest
from reconciler.kinds.task.plan import plan
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import TaskState, states_of_all
from reconciler.ports import InstanceReport, Revision, RouterReport
from reconciler.settings import HubSpec
from reconciler.store.records import TaskRecord
from tests.fakes.clock import START
from tests.fakes.desired import task_manifest
from tests.fakes.fleet import agent_view
from tests.fakes.texts import task_text

BOOT_S = 10_000.0
HUB = HubSpec.model_validate({"router": {"lease": "30s", "ttl": "10m"}, "orchestrator": {"retry": {"maxAttempts": 3}}})


def task_of(name: str = "changelog", **spec: Any) -> Manifest[TaskSpec]:
    return task_manifest(task_text(name, **spec))


def run_of(manifest: Manifest[TaskSpec], state: TaskState = TaskState.PENDING, **more: Any) -> TaskRecord:
    """A run from git; one that is assigned or running is on writer-0 since just now, sent in the present epoch."""
    run = TaskRecord(
        run=f"run-{manifest.name}",
        name=manifest.name,
        spec_digest=manifest.digest,
        manifest=json.dumps(manifest.written),
        source="git",
        revision="r0",
        state=state,
        priority=manifest.spec.priority,
        boot_id="boot-1",
        created_at="2026-01-01T11:00:00+00:00",
    )
    if state is not TaskState.PENDING:
        run = replace(run, agent="writer")
    if state in (TaskState.ASSIGNED, TaskState.RUNNING):
        run = replace(
            run, instance="writer-0", generation=1, attempts=1, sent_epoch="epoch-1", assigned_boot=BOOT_S - 1
        )
    return replace(run, **more)


def instance_of(name: str = "writer-0", **more: Any) -> InstanceView:
    values = {"agent": name.rpartition("-")[0], "ready": True, "container_id": f"c-{name}", "last_seen": BOOT_S, **more}
    return InstanceView(name=name, **values)


def writer(*instances: InstanceView, **more: Any) -> AgentView:
    return agent_view(instances=instances or (instance_of(),), **more)


def router(
    last_seen: float = BOOT_S, uptime_s: float = 5000.0, epoch: str = "epoch-1", name: str = "writer-0"
) -> RouterReport:
    return RouterReport(
        pid=1,
        epoch=epoch,
        code_version="1",
        config_digest="",
        policy_revision="",
        inbox_seq=0,
        uptime_s=uptime_s,
        instances={name: InstanceReport(instance=name, last_seen=last_seen)},
    )


def plan_tasks(
    manifests: list[Manifest[TaskSpec]], *runs: TaskRecord, without_result: frozenset[str] = frozenset(), **more: Any
) -> list[Change]:
    """Changes for runs given oldest first. Keywords are facts, or `agents`, `hub`, `schedules` and `listening_s`."""
    agents: list[AgentView] = more.pop("agents", [writer()])
    desired = Desired(
        revision=Revision(id="r1"),
        hub=more.pop("hub", HUB),
        loaded={"task": Loaded(by_name={m.name: m for m in manifests})},
    )
    listening = Listening(at_s=BOOT_S, since={"writer-0": BOOT_S - more.pop("listening_s", 5000.0)})
    states = replace(
        states_of_all(runs),
        without_result=without_result,
        listening=listening,
        schedules=more.pop("schedules", {}),
    )
    values = {
        "now": START,
        "boottime": BOOT_S,
        "boot_id": "boot-1",
        "router": router(),
        "fleet": {a.name: a for a in agents},
        **more,
    }
    return list(plan(desired, states, Facts(**values)))


def plan_run(run: TaskRecord, manifest: Manifest[TaskSpec] | None = None, **more: Any) -> Change:
    """The change of one run whose manifest is in git (or the one given), or that is from elsewhere."""
    manifests = [manifest] if manifest is not None else []
    (change,) = [c for c in plan_tasks(manifests, run, **more) if c.spec.run is not None]
    return change
