"""What a shim is told to start: the container's spec in the words of this machine.

A record and a host come in, the launch file goes out. Pure. There is no mount namespace, so each
argument and environment value that is a mount's target, or a path below one, becomes the path of
the source; `/tmp` and the sandbox's home become the instance's own directories. The same holds for
the texts inside a value that is a JSON object or list.
"""

import json
import os
from collections.abc import Mapping, Sequence

from reconciler.ports import ContainerSpec
from reconciler.runtime import sandbox
from reconciler.runtime.process_host import Host
from reconciler.runtime.process_record import HOME, TMP, Record
from reconciler.runtime.process_survivors import MARKER, marker

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build_launch(record: Record, path: str, host: Host, token: str, log_bytes: int) -> bytes:
    """The launch file, see `encode_launch`. `path` is the container's directory.

    Raises ValueError when an argument or value cannot be passed to a program.
    """
    spec = record.spec
    sources = source_by_target(spec, path)
    argv = [rewrite(argument, sources) for argument in spec.argv]
    if argv and argv[0] == "python3":
        argv[0] = host.interpreter
    env = _environment(record, path, host)
    fields = [("token", token), ("cwd", rewrite(spec.working_dir, sources))]
    fields += [("arg", argument) for argument in argv]
    fields += [("env", f"{key}={value}") for key, value in env.items()]
    fields += [("limit", limit) for limit in _rlimits(spec, host)]
    fields += [("group", str(group)) for group in host.cgroups.groups(spec.name)]
    fields += [("log_bytes", str(log_bytes))]
    if record.uid is not None:
        fields.append(("uid", str(record.uid)))
    return encode_launch(fields)


def encode_launch(fields: Sequence[tuple[str, str]]) -> bytes:
    """`key=value` pairs, each ended by NUL; keys repeat.

    `token`, `cwd`, `arg`..., `env` (`NAME=value`)..., `limit` (`RLIMIT_CORE:soft:hard`)..., `group`
    (a cgroup directory to enter)..., `log_bytes`, `uid` (absent: the hub's).
    Raises ValueError on a NUL and on an empty `arg` list.
    """
    if any("\0" in value for _, value in fields):
        raise ValueError("an argument or environment value contains a NUL character")
    if not any(key == "arg" for key, _ in fields):
        raise ValueError("there is no program to run")
    return os.fsencode("".join(f"{key}={value}\0" for key, value in fields))


def source_by_target(spec: ContainerSpec, path: str) -> dict[str, str]:
    """Which path of this machine stands for which path of the container.

    A source stands for itself: it may be below `/tmp`.
    """
    private = {"/tmp": f"{path}/{TMP}", sandbox.HOME: f"{path}/{HOME}"}  # noqa: S108 - its own
    mounts = {os.path.normpath(m.target): os.path.normpath(m.source) for m in spec.mounts}
    return {**private, **{source: source for source in mounts.values()}, **mounts}


def rewrite(text: str, sources: Mapping[str, str]) -> str:
    """`text` with its path replaced if it is a target or below one; the longest target wins."""
    for target in sorted(sources, key=len, reverse=True):
        if text == target or text.startswith(f"{target.rstrip('/')}/"):
            return sources[target] + text[len(target.rstrip("/")) :]
    return text


def _environment(record: Record, path: str, host: Host) -> dict[str, str]:
    sources = source_by_target(record.spec, path)
    env = {
        "PATH": _search_path(host.interpreter),
        "HOME": f"{path}/{HOME}",
        "TMPDIR": f"{path}/{TMP}",
        "LANG": "C.UTF-8",
    }
    env |= {key: _rewrite_value(value, sources) for key, value in record.spec.env.items()}
    own = [part for part in (host.lib, env.get("PYTHONPATH")) if part]
    return {**env, "PYTHONPATH": os.pathsep.join(own), MARKER: marker(record.fleet, record.id)}


def _rewrite_value(value: str, sources: Mapping[str, str]) -> str:
    if not value.startswith(("{", "[")):
        return rewrite(value, sources)
    try:
        before = json.loads(value)
    except ValueError:
        return value
    after = _rewrite_json(before, sources)
    return value if after == before else json.dumps(after, separators=(",", ":"))


def _rewrite_json(value: object, sources: Mapping[str, str]) -> object:
    match value:
        case str():
            return rewrite(value, sources)
        case list():
            return [_rewrite_json(entry, sources) for entry in value]
        case dict():
            return {key: _rewrite_json(entry, sources) for key, entry in value.items()}
        case _:
            return value


def _search_path(interpreter: str) -> str:
    """The usual directories; an interpreter that is in none of them is found too."""
    directory = os.path.dirname(interpreter)
    return _PATH if directory in _PATH.split(":") else f"{directory}:{_PATH}"


def _rlimits(spec: ContainerSpec, host: Host) -> list[str]:
    """A limit on data, not on addresses: runtimes reserve address space that they never use."""
    limits = [f"RLIMIT_{name.upper()}:{soft}:{hard}" for name, (soft, hard) in sandbox.ULIMITS.items()]
    if spec.disk_bytes > 0:
        limits.append(f"RLIMIT_FSIZE:{spec.disk_bytes}:{spec.disk_bytes}")
    if "memory_bytes" not in host.cgroups.enforced:
        limits.append(f"RLIMIT_DATA:{spec.limits.memory_bytes}:{spec.limits.memory_bytes}")
    if "pids" in host.enforced - host.cgroups.enforced:
        limits.append(f"RLIMIT_NPROC:{spec.limits.pids}:{spec.limits.pids}")
    return limits
