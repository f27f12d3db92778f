"""The outside checker: is the fleet what git says? Uses git and the engine's own words, and nothing of the reconciler.

It reads the manifests of a commit with `git show`, and the containers with `docker inspect` (over the engine's socket)
or, for the process runtime, with `/proc`. Any difference is a sentence in the list that `check_*` returns.
"""

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ruamel.yaml import YAML

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
ENGINE_SOCKET = "/var/run/docker.sock"
NAMESPACES = ("PidMode", "IpcMode", "UTSMode", "UsernsMode")
MOUNTS = {"/run/hub", "/run/secrets", "/workspace", "/workspaces"}
"""What a container may see of the host."""


@dataclass(frozen=True)
class Wanted:
    """One instance that git asks for."""

    name: str
    agent: str
    image: str
    cpus: float
    memory_bytes: int
    pids: int
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    """The executor's, without paths: the process runtime has others."""


def wanted_by_git(repository: Path, revision: str = "main") -> dict[str, Wanted]:
    """Every instance that the manifests of a commit ask for, by name."""
    listed = _git(repository, "ls-tree", "-r", "--name-only", revision, "agents.d/").split()
    out: dict[str, Wanted] = {}
    for path in (p for p in listed if p.endswith(".yaml") and p.count("/") == 1):
        for document in YAML(typ="safe").load_all(_git(repository, "show", f"{revision}:{path}")):
            spec, resources = document["spec"], document["spec"].get("resources", {})
            for ordinal in range(spec.get("replicas", 1)):
                name = f"{document['metadata']['name']}-{ordinal}"
                out[name] = Wanted(
                    name=name,
                    agent=document["metadata"]["name"],
                    image=spec["image"],
                    cpus=float(resources.get("cpus", 1.0)),
                    memory_bytes=_bytes(resources.get("memory", "512MiB")),
                    pids=int(resources.get("pids", 100)),
                    argv=tuple(spec["executor"]["argv"]),
                    env=_no_paths(spec["executor"].get("env", {})),
                )
    return out


def check_docker(repository: Path, fleet: str, revision: str = "main") -> list[str]:
    """Differences between a commit and the containers of a fleet; empty when there are none."""
    return compare_docker(wanted_by_git(repository, revision), fleet)


def compare_docker(wanted: Mapping[str, Wanted], fleet: str) -> list[str]:
    """The same for instances that were read from a commit before."""
    images = {image: _image_id(image) for image in {one.image for one in wanted.values()}}
    faults: list[str] = []
    seen: dict[str, str] = {}
    for summary in _listed(fleet):
        try:
            body = engine("GET", f"/containers/{summary['Id']}/json")
        except GoneError as gone:
            faults.append(f"a container was removed while it was looked at: {gone}")
            continue
        name = body["Config"]["Labels"].get("io.reconciler.instance", "?")
        if name in seen:
            faults.append(f"{name} has two containers: {seen[name][:12]} and {body['Id'][:12]}")
        seen[name] = body["Id"]
        if name not in wanted:
            faults.append(f"{name} runs, but git does not ask for it (orphan {body['Id'][:12]})")
            continue
        faults.extend(_compare(wanted[name], body, images[wanted[name].image]))
    faults.extend(f"{name} is asked for by git, but has no container" for name in wanted.keys() - seen.keys())
    return faults


def containers(fleet: str) -> dict[str, str]:
    """Container id by instance, of everything that has the fleet's label."""
    return {summary["Labels"]["io.reconciler.instance"]: summary["Id"] for summary in _listed(fleet)}


def _listed(fleet: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine("GET", f"/containers/json?all=1&filters={_label(fleet)}")
    return found


def _image_id(image: str) -> str:
    return str(engine("GET", f"/images/{quote(image, safe='')}/json")["Id"])


def _compare(wanted: Wanted, body: dict[str, Any], image: str) -> Iterator[str]:
    host, config = body["HostConfig"], body["Config"]
    environment = dict(e.partition("=")[::2] for e in config["Env"] or [])
    executor = json.loads(environment.get("HUB_CONFIG", "{}")).get("executor", {})
    expected: list[tuple[str, object, object]] = [
        ("state", body["State"]["Status"], "running"),
        ("image", body["Image"], image),
        ("executor", tuple(executor.get("argv", ())), wanted.argv),
        ("executor's environment", _no_paths(executor.get("env", {})), wanted.env),
        ("cpus", host["NanoCpus"] / 1e9, wanted.cpus),
        ("memory", host["Memory"], wanted.memory_bytes),
        ("pids", host["PidsLimit"], wanted.pids),
        ("network", host["NetworkMode"], "none"),
        ("read-only root", host["ReadonlyRootfs"], True),
        ("capabilities", [c.upper() for c in host["CapDrop"] or []], ["ALL"]),
        ("added capabilities", host["CapAdd"] or [], []),
        ("privileged", host["Privileged"], False),
        ("new privileges", any(o.startswith("no-new-privileges") for o in host["SecurityOpt"] or []), True),
        ("namespaces of the host", [n for n in NAMESPACES if host[n] == "host"], []),
        ("devices", host["Devices"] or [], []),
        ("mounts", sorted({m["Destination"] for m in body["Mounts"]} - MOUNTS), []),
        ("user", config["User"].split(":")[0], "1000"),
    ]
    for what, found, asked in expected:
        if found != asked:
            yield f"{wanted.name}: {what} is {found!r}, git asks for {asked!r}"


def check_processes(repository: Path, run: Path, revision: str = "main") -> list[str]:
    """The same for the process runtime: one live agentd per instance, told by the environment of its process."""
    wanted = wanted_by_git(repository, revision)
    faults: list[str] = []
    seen: dict[str, int] = {}
    for pid, environment in _agentds(run):
        name = environment["HUB_INSTANCE"]
        if name in seen:
            faults.append(f"{name} runs twice: pids {seen[name]} and {pid}")
        seen[name] = pid
        if name not in wanted:
            faults.append(f"{name} runs (pid {pid}), but git does not ask for it")
            continue
        executor = json.loads(environment["HUB_CONFIG"])["executor"]
        if tuple(executor["argv"]) != wanted[name].argv:
            faults.append(f"{name}: executor is {executor['argv']}, git asks for {list(wanted[name].argv)}")
        if (found := _no_paths(executor.get("env", {}))) != wanted[name].env:
            faults.append(f"{name}: executor's environment is {dict(found)}, git asks for {dict(wanted[name].env)}")
    faults.extend(f"{name} is asked for by git, but does not run" for name in wanted.keys() - seen.keys())
    return faults


def _agentds(run: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            raw = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        environment = dict(e.decode(errors="replace").split("=", 1) for e in raw if b"=" in e)
        is_agentd = b"reconciler.agentd" in command and environment.get("HUB_TOKEN_FILE", "").startswith(f"{run}/")
        if is_agentd and environment.get("HUB_INSTANCE"):
            yield int(entry.name), environment


def daemons(run: Path) -> list[tuple[int, str]]:
    """Pid and instance of every agentd of the process runtime."""
    return [(pid, environment["HUB_INSTANCE"]) for pid, environment in _agentds(run)]


class GoneError(AssertionError):
    """The engine knows nothing of that name."""


def engine_socket() -> str:
    """Where the engine of DOCKER_HOST listens, else that of the machine."""
    return os.environ.get("DOCKER_HOST", ENGINE_SOCKET).removeprefix("unix://")


def engine(method: str, target: str, address: str = "", body: Mapping[str, Any] | None = None) -> Any:
    """One call on an engine's socket, by default `engine_socket`. Raises OSError, AssertionError, GoneError."""
    content, headers = (json.dumps(body), {"Content-Type": "application/json"}) if body else (None, {})
    connection = http.client.HTTPConnection("engine", timeout=120)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(120)
    try:
        connection.sock.connect(address.removeprefix("unix://") or engine_socket())
        connection.request(method, target, content, headers)
        response = connection.getresponse()
        answer = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{method} {target}: no answer: {error!r}") from error
    finally:
        connection.close()
    if response.status == 404:
        raise GoneError(f"{method} {target}: {answer[:200]!r}")
    if response.status >= 400:
        raise AssertionError(f"{method} {target}: {response.status} {answer[:200]!r}")
    return json.loads(answer) if answer else None


def has_engine() -> bool:
    """Whether an engine answers."""
    try:
        engine("GET", "/version")
    except (OSError, AssertionError):
        return False
    return True


def _label(fleet: str) -> str:
    return quote(json.dumps({"label": [f"io.reconciler.fleet={fleet}"]}))


def _no_paths(env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, value) for key, value in env.items() if not value.startswith("/")))


def _bytes(text: str) -> int:
    unit = next(u for u in UNITS if text.endswith(u))
    return int(text.removesuffix(unit)) * UNITS[unit]


def _git(repository: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True, text=True).stdout
