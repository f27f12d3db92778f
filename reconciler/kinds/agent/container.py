"""From an agent's manifest to the container of one of its instances. Pure.

The paths here are the layout that hub, router, runtimes and `agentd` share.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.names import instance_name
from reconciler.identity.seal import AGENT_LABEL, FLEET_LABEL, HOME_LABEL, INSTANCE_LABEL, SEAL_LABEL, make_seal
from reconciler.kinds.agent.executor import describe_executor
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.route_entry import ADDRESS
from reconciler.ports import ContainerSpec, Limits, Mount
from reconciler.settings import AgentPlane

AGENTD_ARGV = ("python3", "-m", "reconciler.agentd")
AGENTD_PORT = 8421
CA_FILE = "hub-ca.pem"
LLM_PORT = 8422
WORKSPACES = "/workspaces"
WORKSPACE = "/workspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a fleet's files are, and its router. `run` is on tmpfs, `state` lasts."""

    fleet: str
    seal_key: bytes
    run: Path
    state: Path
    plane: AgentPlane = field(default_factory=AgentPlane)

    def hub(self, instance: str) -> Path:
        return self.run / "hub" / instance

    def secrets(self, instance: str) -> Path:
        return self.run / "secrets" / instance

    def workspaces(self, *, history: bool) -> Path:
        return self.state / "workspaces" / ("full" if history else "tree")

    def own_workspace(self, instance: str) -> Path:
        return self.state / "instances" / instance / "workspace"


def build_container(
    agent: str, ordinal: int, spec: AgentSpec, places: Places, *, image_id: str, uid: int, model: str = ""
) -> ContainerSpec:
    """The container of one instance, as the manifest asks for it.

    `model` is the one that was chosen for its executor; empty: the one that the manifest names, if it names one.
    """
    instance = instance_name(agent, ordinal)
    return ContainerSpec(
        name=instance,
        image=spec.image,
        image_id=image_id,
        argv=AGENTD_ARGV,
        env={**_env(agent, instance, spec, model), **_way_to_hub(places.plane.address_of(agent))},
        labels={
            FLEET_LABEL: places.fleet,
            AGENT_LABEL: agent,
            INSTANCE_LABEL: instance,
            HOME_LABEL: str(places.state),
            SEAL_LABEL: make_seal(places.seal_key, places.fleet, instance),
        },
        limits=limits(spec),
        mounts=_mounts(agent, instance, spec, places),
        disk_bytes=spec.resources.disk,
        grace_s=spec.lifecycle.grace,
        uid=uid,
    )


def limits(spec: AgentSpec) -> Limits:
    return Limits(cpus=spec.resources.cpus, memory_bytes=spec.resources.memory, pids=spec.resources.pids)


def recorded_model(fields: str) -> str:
    """The model that the executor of a container made with these fields was told of; empty for none."""
    config = json.loads(json.loads(fields)["env"]["HUB_CONFIG"])
    return str(config["executor"].get("model", ""))


def hello_of(spec: AgentSpec) -> Mapping[str, object]:
    """What the handshake must report to match the manifest."""
    return {"version": spec.version, "capabilities": sorted(spec.capabilities), "executor": spec.executor.type}


def _env(agent: str, instance: str, spec: AgentSpec, model: str) -> dict[str, str]:
    config = {
        "version": spec.version,
        "capabilities": list(spec.capabilities),
        "executor": describe_executor(spec.executor, spec.env, model or (spec.llm and spec.llm.model) or ""),
        "heartbeat_s": spec.health.heartbeat,
        "grace_s": spec.lifecycle.grace,
        "max_parallel": spec.tasks.max_parallel,
        "ttl_s": spec.lifecycle.ttl,
        "scratch": "/tmp",  # noqa: S108 - a tmpfs of the container's own
        "port": AGENTD_PORT,
        "llm_port": LLM_PORT,
    }
    return {
        **spec.env,
        "HUB_TOKEN_FILE": "/run/secrets/agent-token",
        "HUB_AGENT": agent,
        "HUB_INSTANCE": instance,
        "HUB_CONFIG": json.dumps(config, sort_keys=True),
    }


def _way_to_hub(address: str) -> dict[str, str]:
    if address:
        return {ADDRESS: address, "HUB_CA_FILE": f"/run/secrets/{CA_FILE}"}
    return {"HUB_SOCKET": "/run/hub/hub.sock"}


def _mounts(agent: str, instance: str, spec: AgentSpec, places: Places) -> tuple[Mount, ...]:
    mounts = [Mount(source=str(places.secrets(instance)), target="/run/secrets")]
    if not places.plane.address_of(agent):
        mounts.insert(0, Mount(source=str(places.hub(instance)), target="/run/hub"))
    match spec.workspace.source:
        case "none":
            pass
        case "repository" if not spec.workspace.writable:
            source = places.workspaces(history=spec.workspace.history)
            mounts.append(Mount(source=str(source), target=WORKSPACES))
        case _:
            mounts.append(
                Mount(
                    source=str(places.own_workspace(instance)), target=WORKSPACE, read_only=not spec.workspace.writable
                )
            )
    return tuple(mounts)
