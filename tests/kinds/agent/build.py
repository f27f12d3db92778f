"""Instances of one agent `writer` as tests of agents need them: everything as it should be, unless said otherwise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.core.change import Change
from reconciler.core.reading import Absent, Ok, Reading
from reconciler.kinds.agent.container import Places, build_container, hello_of
from reconciler.kinds.agent.plan import plan
from reconciler.kinds.agent.spec import AgentSpec, parse_agent
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.kind import Desired, Facts, Listening
from reconciler.kinds.manifest import Loaded, Manifest
from reconciler.ports import ContainerState, ContainerSummary, InstanceReport, Revision, RouterReport
from reconciler.runtime.fake import FakeRuntime
from reconciler.settings import HubSpec
from reconciler.store.records import InstanceRecord
from tests.fakes.clock import START
from tests.fakes.fleet import FLEET, SEAL_KEY
from tests.fakes.texts import IMAGE, agent_text

IMAGE_ID = "sha256:base1"
BOOT_S = 1000.0
PLACES = Places(fleet=FLEET, seal_key=SEAL_KEY, run=Path("/run/reconciler/x"), state=Path("/var/x"))
ROUTER = RouterReport(
    pid=1, epoch="epoch-1", code_version="1", config_digest="1:r", policy_revision="", inbox_seq=0, uptime_s=500.0
)


def manifest_of(name: str = "writer", **spec: Any) -> Manifest[AgentSpec]:
    parsed = parse_agent("agents.d/a.yaml", agent_text(name, **spec).encode(), {})
    assert not parsed.problems, parsed.problems
    return parsed.manifests[0]


def desired_of(
    *manifests: Manifest[AgentSpec], image: Reading[str] | None = None, hub: HubSpec | None = None
) -> Desired:
    return Desired(
        revision=Revision(id="r1"),
        hub=hub or HubSpec(),
        loaded={"agent": Loaded(by_name={m.name: m for m in manifests})},
        images={IMAGE: image or Ok(IMAGE_ID), "agents/other:1": Ok("sha256:other"), "agents/missing:1": Absent()},
    )


def facts_of(**more: Any) -> Facts:
    return Facts(**{"now": START, "boottime": BOOT_S, "boot_id": "boot-1", "router": ROUTER, **more})


def record_of(manifest: Manifest[AgentSpec], ordinal: int = 0, **more: Any) -> InstanceRecord:
    """An executing instance that was made from this manifest a minute ago."""
    spec = build_container(manifest.name, ordinal, manifest.spec, PLACES, image_id=IMAGE_ID, uid=1000)
    record = InstanceRecord(
        name=f"{manifest.name}-{ordinal}",
        agent=manifest.name,
        ordinal=ordinal,
        phase=Phase.EXECUTING,
        spec_digest=manifest.digest,
        manifest=json.dumps(manifest.written),
        revision="r0",
        image_id=IMAGE_ID,
        container_id="c1",
        fields=json.dumps(dict(FakeRuntime(FLEET).normalise(spec))),
        token_sha256="0" * 64,
        created_at="2026-01-01T11:59:00+00:00",
        updated_at="2026-01-01T11:59:00+00:00",
    )
    return replace(record, **more)


def state_of(record: InstanceRecord, *, container: str = "running", **more: Any) -> InstanceState:
    """The instance of a record: its container in this state (empty: none), inspected, and known to the router."""
    fields = json.loads(record.fields)
    state = InstanceState(
        name=record.name,
        record=record,
        container=ContainerSummary(id="c1", name=record.name, state=container, labels={}, image_id=record.image_id),
        inspected=ContainerState(id="c1", name=record.name, state=container, fields=fields, labels={}),
        report=InstanceReport(
            instance=record.name, hello=hello_of(AgentSpec.model_validate(_spec(record))), last_seen=BOOT_S
        ),
        sealed=True,
    )
    if not container:
        state = replace(state, container=None, inspected=None, sealed=False)
    return replace(state, **more)


def plan_one(manifest: Manifest[AgentSpec], *states: InstanceState, **more: Any) -> Change:
    """The only change of a fleet of this agent and these instances."""
    (change,) = plan_all([manifest], *states, **more)
    return change


def plan_all(manifests: list[Manifest[AgentSpec]], *states: InstanceState, **more: Any) -> list[Change]:
    """Changes for these instances. Keywords are facts, or `image`, `hub` and `listening_s`."""
    desired = desired_of(*manifests, image=more.pop("image", None), hub=more.pop("hub", None))
    since = dict.fromkeys([s.name for s in states], BOOT_S - more.pop("listening_s", ROUTER.uptime_s))
    observed = AgentStates(instances={s.name: s for s in states}, listening=Listening(at_s=BOOT_S, since=since))
    return list(plan(desired, observed, facts_of(**more)))


def _spec(record: InstanceRecord) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(record.manifest)["spec"]
    return {k: v for k, v in spec.items() if k in ("role", "image", "capabilities", "executor", "version")}
