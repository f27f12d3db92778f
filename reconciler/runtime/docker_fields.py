"""The compared fields of a Docker container: what we want and what the engine stored, in a table.

`wanted_fields` turns a spec and `stored_fields` the engine's `inspect` answer into the same
mapping; a field is in both because it is one row of `COMPARED`. Values are plain JSON. Pure.

Only the wanted side is brought into the engine's form. The stored side is taken as it is, with one
exception: what the engine merged in from the image (environment, labels) is left out, on both
sides, where it equals the image's own.

`extras` names settings that we never make; it is empty unless somebody made the container by hand.
`grace_s` is not compared: it is given with each stop, and a new one should not replace a container
that runs.
"""

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.ports import ContainerSpec
from reconciler.runtime import sandbox
from reconciler.runtime.sandbox import EngineFeatures

_EXTRAS = (
    "Binds",
    "BlkioWeight",
    "CapAdd",
    "CgroupParent",
    "CpuQuota",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "MemoryReservation",
    "OomKillDisable",
    "OomScoreAdj",
    "PidMode",
    "PortBindings",
    "Privileged",
    "PublishAllPorts",
    "Sysctls",
    "UTSMode",
    "UsernsMode",
    "VolumesFrom",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDefaults:
    """What an image adds to each container made from it."""

    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    spec: ContainerSpec
    fleet: str
    features: EngineFeatures
    image: ImageDefaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An answer of `GET /containers/{id}/json`."""

    body: Mapping[str, Any]
    features: EngineFeatures
    image: ImageDefaults

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.body["Config"]
        return config

    @property
    def host(self) -> Mapping[str, Any]:
        host: Mapping[str, Any] = self.body["HostConfig"]
        return host


@dataclass(frozen=True, slots=True)
class ComparedField:
    """One row: the field's name, and how to get its value from either side."""

    name: str
    wanted: Callable[[Wanted], Any]
    stored: Callable[[Stored], Any]


def image_defaults(body: Mapping[str, Any]) -> ImageDefaults:
    """Read an answer of `GET /images/{id}/json`."""
    config = body.get("Config") or {}
    return ImageDefaults(
        env=_pairs(config.get("Env")),
        labels=dict(config.get("Labels") or {}),
        volumes=tuple(sorted(config.get("Volumes") or {})),
    )


def wanted_fields(wanted: Wanted) -> dict[str, Any]:
    return {row.name: row.wanted(wanted) for row in COMPARED}


def stored_fields(stored: Stored) -> dict[str, Any]:
    return {row.name: row.stored(stored) for row in COMPARED}


def _pairs(entries: Iterable[str] | None) -> dict[str, str]:
    return {key: value for key, _, value in (entry.partition("=") for entry in entries or ())}


def _without(own: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in own.items() if image.get(key) != value}


def _wanted_limits(wanted: Wanted) -> dict[str, float | int | None]:
    body = sandbox.limits_body(wanted.spec.limits, wanted.features)
    return _limits(body, wanted.features)


def _stored_limits(stored: Stored) -> dict[str, float | int | None]:
    return _limits(stored.host, stored.features)


def _limits(body: Mapping[str, Any], features: EngineFeatures) -> dict[str, float | int | None]:
    """What `update` can change. None stands for a limit that this engine cannot enforce."""
    return {
        "cpus": (body.get("NanoCpus") or 0) / 1e9 if features.cpus else None,
        "memory_bytes": body.get("Memory") if features.memory else None,
        "memory_swap_bytes": body.get("MemorySwap") if features.memory and features.swap else None,
        "pids": body.get("PidsLimit") if features.pids else None,
    }


def _wanted_mounts(wanted: Wanted) -> dict[str, dict[str, Any]]:
    return {
        posixpath.normpath(mount.target): {
            "type": "bind",
            "source": posixpath.normpath(mount.source),
            "read_only": mount.read_only,
            "propagation": sandbox.PROPAGATION,
        }
        for mount in wanted.spec.mounts
    }


def _stored_mounts(stored: Stored) -> dict[str, dict[str, Any]]:
    return {
        point["Destination"]: {
            "type": point.get("Type", ""),
            "source": point.get("Name") or point.get("Source", ""),
            "read_only": not point.get("RW", True),
            "propagation": point.get("Propagation", ""),
        }
        for point in stored.body.get("Mounts") or ()
    }


def _stored_networks(stored: Stored) -> list[str]:
    """The mode it was made with and all it is connected to now."""
    connected = (stored.body.get("NetworkSettings") or {}).get("Networks") or {}
    return sorted({stored.host.get("NetworkMode", ""), *connected})


def _stored_ulimits(stored: Stored) -> dict[str, list[int]]:
    return {limit["Name"]: [limit["Soft"], limit["Hard"]] for limit in stored.host.get("Ulimits") or ()}


def _stored_log(stored: Stored) -> dict[str, str | None]:
    """Engines add their own default options, so only ours are looked at."""
    config = stored.host.get("LogConfig") or {}
    options = config.get("Config") or {}
    return {"driver": config.get("Type"), **{key: options.get(key) for key in sandbox.LOG_OPTIONS}}


def _stored_extras(stored: Stored) -> dict[str, Any]:
    return {key: stored.host[key] for key in _EXTRAS if stored.host.get(key)}


def _is_proc_masked(stored: Stored) -> bool:
    return bool(stored.host.get("MaskedPaths")) and bool(stored.host.get("ReadonlyPaths"))


COMPARED: tuple[ComparedField, ...] = (
    ComparedField("image_id", lambda w: w.spec.image_id, lambda s: s.body["Image"]),
    ComparedField("argv", lambda w: list(w.spec.argv), lambda s: [s.body["Path"], *s.body["Args"]]),
    ComparedField(
        "env",
        lambda w: _without(sandbox.env(w.spec), w.image.env),
        lambda s: _without(_pairs(s.config.get("Env")), s.image.env),
    ),
    ComparedField(
        "labels",
        lambda w: _without(sandbox.labels(w.spec, w.fleet), w.image.labels),
        lambda s: _without(s.config.get("Labels") or {}, s.image.labels),
    ),
    ComparedField("user", lambda w: sandbox.user(w.spec), lambda s: s.config.get("User")),
    ComparedField(
        "working_dir",
        lambda w: posixpath.normpath(w.spec.working_dir),
        lambda s: s.config.get("WorkingDir"),
    ),
    ComparedField("hostname", lambda w: w.spec.name, lambda s: s.config.get("Hostname")),
    ComparedField("limits", _wanted_limits, _stored_limits),
    ComparedField("ulimits", lambda _: {k: list(v) for k, v in sandbox.ULIMITS.items()}, _stored_ulimits),
    ComparedField("mounts", _wanted_mounts, _stored_mounts),
    ComparedField("tmpfs", lambda w: sandbox.tmpfs(w.spec), lambda s: dict(s.host.get("Tmpfs") or {})),
    ComparedField("networks", lambda _: [sandbox.NETWORK], _stored_networks),
    ComparedField("read_only", lambda _: True, lambda s: bool(s.host.get("ReadonlyRootfs"))),
    ComparedField("cap_drop", lambda _: list(sandbox.CAP_DROP), lambda s: list(s.host.get("CapDrop") or ())),
    ComparedField(
        "security_opt",
        lambda _: list(sandbox.SECURITY_OPT),
        lambda s: sorted(s.host.get("SecurityOpt") or ()),
    ),
    ComparedField("proc_masked", lambda _: True, _is_proc_masked),
    ComparedField("init", lambda _: True, lambda s: bool(s.host.get("Init"))),
    ComparedField("ipc", lambda _: sandbox.IPC, lambda s: s.host.get("IpcMode")),
    ComparedField("shm_bytes", lambda _: sandbox.SHM_BYTES, lambda s: s.host.get("ShmSize")),
    ComparedField(
        "restart",
        lambda _: sandbox.RESTART,
        lambda s: (s.host.get("RestartPolicy") or {}).get("Name"),
    ),
    ComparedField("stop_signal", lambda _: sandbox.STOP_SIGNAL, lambda s: s.config.get("StopSignal")),
    ComparedField(
        "healthcheck",
        lambda _: list(sandbox.HEALTHCHECK),
        lambda s: list((s.config.get("Healthcheck") or {}).get("Test") or ()),
    ),
    ComparedField("log", lambda _: {"driver": sandbox.LOG_DRIVER, **sandbox.LOG_OPTIONS}, _stored_log),
    ComparedField("extras", lambda _: {}, _stored_extras),
)
