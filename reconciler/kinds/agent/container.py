"""From an agent's manifest to the container of one of its instances. Pure.

The paths here are the layout that hub, router, runtimes and `agentd` share.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.names import instance_name
from reconciler.identity.seal import AGENT_LABEL, FLEET_LABEL, HOME_LABEL, INSTANCE_LABEL, SEAL_LABEL, make_seal
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.ports import ContainerSpec, Limits, Mount

AGENTD_ARGV = ("python3", "-m", "reconciler.agentd")
AGENTD_PORT = 8421
WORKSPACES = "/workspaces"
WORKSPACE = "/workspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a fleet's files are. `run` is on tmpfs, `state` lasts."""

    fleet: str
    seal_key: bytes
    run: Path
    state: Path

    def hub(self, instance: str) -> Path:
        return self.run / "hub" / instance

    def secrets(self, instance: str) -> Path:
        return self.run / "secrets" / instance

    def workspaces(self, *, history: bool) -> Path:
        return self.state / "workspaces" / ("full" if history else "tree")

    def own_workspace(self, instance: str) -> Path:
        return self.state / "instances" / instance / "workspace"


def build_container(
    agent: str, ordinal: int, spec: AgentSpec, places: Places, *, image_id: str, uid: int
) -> ContainerSpec:
    """The container of one instance, as the manifest asks for it."""
    instance = instance_name(agent, ordinal)
    return ContainerSpec(
        name=instance,
        image=spec.image,
        image_id=image_id,
        argv=AGENTD_ARGV,
        env=_env(agent, instance, spec),
        labels={
            FLEET_LABEL: places.fleet,
            AGENT_LABEL: agent,
            INSTANCE_LABEL: instance,
            HOME_LABEL: str(places.state),
            SEAL_LABEL: make_seal(places.seal_key, places.fleet, instance),
        },
        limits=limits(spec),
        mounts=_mounts(instance, spec, places),
        disk_bytes=spec.resources.disk,
        grace_s=spec.lifecycle.grace,
        uid=uid,
    )


def limits(spec: AgentSpec) -> Limits:
    return Limits(cpus=spec.resources.cpus, memory_bytes=spec.resources.memory, pids=spec.resources.pids)


def hello_of(spec: AgentSpec) -> Mapping[str, object]:
    """What the handshake must report to match the manifest."""
    return {"version": spec.version, "capabilities": sorted(spec.capabilities), "executor": spec.executor.type}


def _env(agent: str, instance: str, spec: AgentSpec) -> dict[str, str]:
    executor = spec.executor
    config = {
        "version": spec.version,
        "capabilities": list(spec.capabilities),
        "executor": {
            "type": executor.type,
            "argv": list(executor.argv),
            "env": {**spec.env, **executor.env},
            "timeouts": {"firstOutput": executor.timeouts.first_output, "progress": executor.timeouts.progress},
        },
        "heartbeat_s": spec.health.heartbeat,
        "grace_s": spec.lifecycle.grace,
        "max_parallel": spec.tasks.max_parallel,
        "ttl_s": spec.lifecycle.ttl,
        "scratch": "/tmp",  # noqa: S108 - a tmpfs of the container's own
        "port": AGENTD_PORT,
    }
    return {
        **spec.env,
        "HUB_SOCKET": "/run/hub/hub.sock",
        "HUB_TOKEN_FILE": "/run/secrets/agent-token",
        "HUB_AGENT": agent,
        "HUB_INSTANCE": instance,
        "HUB_CONFIG": json.dumps(config, sort_keys=True),
    }


def _mounts(instance: str, spec: AgentSpec, places: Places) -> tuple[Mount, ...]:
    mounts = [
        Mount(source=str(places.hub(instance)), target="/run/hub"),
        Mount(source=str(places.secrets(instance)), target="/run/secrets"),
    ]
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
