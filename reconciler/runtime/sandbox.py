"""The strict sandbox: what a container of ours looks like in the words of the Docker Engine API.

A `ContainerSpec` comes in, the body of `POST /containers/create` goes out. Pure. Everything here
is fixed; the only things that vary are the spec and the limits that the engine can enforce.

- No way out: network `none`, no published ports, no devices, no capabilities, no new privileges,
  private IPC.
- Nothing to write to but `/tmp`, `/home/agent` (a tmpfs of `disk_bytes` each) and the writable
  mounts; and `/dev/shm`, 64 MiB, not executable. What is written to a tmpfs counts as memory of
  the container, so the memory limit bounds it too. The first two allow execution: tools that
  install themselves below the home directory or build in `/tmp` break without it, and a script
  needs no exec bit anyway. Engines mount tmpfs `noexec` by default, hence the explicit `exec`.
- 1024 open files, which is safe for select(); a program may raise that to 4096 itself, as Node.js
  does.
- Logs are kept by the engine, at most two files of 10 MB.
- What an image declares cannot loosen this: its entry point, user, working directory and health
  check are overridden, and one that declares volumes is refused (in `docker.py`).
- Bind mounts are of type `bind` in `Mounts`, so that a missing source is refused; the older `Binds`
  would create it, owned by root. They are not recursive: what is mounted below a shared directory
  is not shared by accident, and a read-only mount has no writable part.
"""

import math
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.ports import ContainerSpec, Limits

FLEET_LABEL = "io.reconciler.fleet"
HOME = "/home/agent"
TMP = "/tmp"  # noqa: S108 - the container's own

NETWORK = "none"
CAP_DROP = ("ALL",)
SECURITY_OPT = ("no-new-privileges",)
ULIMITS: Mapping[str, tuple[int, int]] = {"core": (0, 0), "nofile": (1024, 4096)}
LOG_DRIVER = "json-file"
LOG_OPTIONS: Mapping[str, str] = {"max-size": "10m", "max-file": "2"}
SHM_BYTES = 64 * 2**20
STOP_SIGNAL = "SIGTERM"
HEALTHCHECK = ("NONE",)
IPC = "private"
RESTART = "no"
PROPAGATION = "rprivate"

_SMALLEST_TMPFS_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFeatures:
    """Which limits the engine's kernel enforces. A limit it lacks is neither sent nor compared."""

    memory: bool = True
    swap: bool = True
    cpus: bool = True
    pids: bool = True


def container_uid() -> int:
    """The user in containers: 1000, or the hub's own where it is not root and can give no socket away."""
    own = os.geteuid()
    return own if own != 0 else 1000


def engine_name(fleet: str, name: str) -> str:
    """The name a container has in the engine, where all fleets of a host share one set of names."""
    return f"reconciler-{fleet}-{name}"


def labels(spec: ContainerSpec, fleet: str) -> dict[str, str]:
    """All labels that are set; the fleet's is the runtime's own and wins."""
    return {**spec.labels, FLEET_LABEL: fleet}


def env(spec: ContainerSpec) -> dict[str, str]:
    """All variables that are set: `HOME` is the writable one unless the spec says otherwise."""
    return {"HOME": HOME, **spec.env}


def user(spec: ContainerSpec) -> str:
    return f"{spec.uid}:{spec.uid}"


def tmpfs(spec: ContainerSpec) -> dict[str, str]:
    """Options by target.

    Both belong to the container's user, because engines give a tmpfs the mode of the directory
    that it covers, and an image without `/tmp` gets one that only root may write to. A size of 0
    would mean no limit, so there is a smallest one.
    """
    size_bytes = max(spec.disk_bytes, _SMALLEST_TMPFS_BYTES)
    common = f"rw,exec,nosuid,nodev,size={size_bytes},uid={spec.uid},gid={spec.uid}"
    return {TMP: f"{common},mode=1777", HOME: f"{common},mode=0700"}


def nano_cpus(limits: Limits) -> int:
    return round(limits.cpus * 1e9)


def limits_body(limits: Limits, features: EngineFeatures) -> dict[str, int]:
    """What `update` may change, as it stands in a body. Memory and swap together are limited."""
    body: dict[str, int] = {}
    if features.cpus:
        body["NanoCpus"] = nano_cpus(limits)
    if features.memory:
        body["Memory"] = limits.memory_bytes
    if features.memory and features.swap:
        body["MemorySwap"] = limits.memory_bytes
    if features.pids:
        body["PidsLimit"] = limits.pids
    return body


def create_body(spec: ContainerSpec, fleet: str, features: EngineFeatures) -> dict[str, Any]:
    """The whole body of the create call. It names the image by id, so a moved tag is no matter."""
    return {
        "Image": spec.image_id,
        "Entrypoint": [""],
        "Cmd": list(spec.argv),
        "Env": [f"{key}={value}" for key, value in env(spec).items()],
        "Labels": labels(spec, fleet),
        "User": user(spec),
        "WorkingDir": posixpath.normpath(spec.working_dir),
        "Hostname": spec.name,
        "StopSignal": STOP_SIGNAL,
        "StopTimeout": math.ceil(spec.grace_s),
        "Healthcheck": {"Test": list(HEALTHCHECK)},
        "HostConfig": _host_config(spec, features),
    }


def _host_config(spec: ContainerSpec, features: EngineFeatures) -> dict[str, Any]:
    return {
        "NetworkMode": NETWORK,
        "ReadonlyRootfs": True,
        "Tmpfs": tmpfs(spec),
        "Mounts": [
            {
                "Type": "bind",
                "Source": mount.source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
                "BindOptions": {"NonRecursive": True, "Propagation": PROPAGATION},
            }
            for mount in spec.mounts
        ],
        "CapDrop": list(CAP_DROP),
        "SecurityOpt": list(SECURITY_OPT),
        "Privileged": False,
        "Ulimits": [{"Name": n, "Soft": soft, "Hard": hard} for n, (soft, hard) in ULIMITS.items()],
        "LogConfig": {"Type": LOG_DRIVER, "Config": dict(LOG_OPTIONS)},
        "Init": True,
        "IpcMode": IPC,
        "ShmSize": SHM_BYTES,
        "RestartPolicy": {"Name": RESTART},
        **limits_body(spec.limits, features),
    }
