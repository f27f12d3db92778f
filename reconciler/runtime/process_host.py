"""What this machine lets the process runtime do: user ids, interpreter, cgroups, where code lies.

In: the fleet and the runtime's directory. Out: a `Host`, found out once per runtime. Effects: a
copy of agentd in `.lib/<version>` that every user may read, a compiled copy of the shim beside it,
short trial runs of Python, cgroup directories.
"""

import hashlib
import importlib.util
import os
import platform
import py_compile
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import reconciler
from reconciler.runtime import shim
from reconciler.runtime.process_cgroup import Cgroups, find_cgroups

LIB = ".lib"
OFFERED = ("ruamel", "jsonschema_rs")
"""What the agents' images add to plain Python (images/checker), so that the same manifests work here."""

_TRIAL = "import sys, json, socket, reconciler; sys.exit(sys.version_info < (3, 9))"
_TRIAL_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`has_own_uids`: each instance gets a user id of its own. `lib` goes on PYTHONPATH.

    `interpreter` runs agentd, as an instance's user; the hub's own runs `shim`.
    """

    has_own_uids: bool
    interpreter: str
    lib: str
    shim: str
    cgroups: Cgroups

    @property
    def enforced(self) -> frozenset[str]:
        """The fields of `Limits` that something enforces, by cgroup or resource limit."""
        by_rlimit = {"memory_bytes", "pids"} if self.has_own_uids else {"memory_bytes"}
        return self.cgroups.enforced | by_rlimit


def find_host(fleet: str, root: Path, uid_base: int) -> Host:
    """Raises OSError, also on Linux before 5.3, which has no handles for processes."""
    os.close(os.pidfd_open(os.getpid()))
    lib = copy_agentd(root)
    interpreter = _find_interpreter(lib, uid_base) if os.geteuid() == 0 else None
    return Host(
        has_own_uids=interpreter is not None,
        interpreter=interpreter or sys.executable,
        lib=lib,
        shim=compile_shim(root),
        cgroups=find_cgroups(fleet),
    )


def agentd_version() -> str:
    """SHA-256, in hex, over the names and contents of agentd's files."""
    total = hashlib.sha256()
    package = _package()
    for file in sorted((package / "agentd").rglob("*.py")):
        content = file.read_bytes()
        total.update(f"{file.relative_to(package)}\0{len(content)}\0".encode() + content)
    for source in _offered():
        total.update(f"{source}\0{source.stat().st_mtime_ns}\0".encode())
    return total.hexdigest()


def _offered() -> list[Path]:
    """Where the packages of `OFFERED` are in the hub's own environment, as far as they are there."""
    specs = [importlib.util.find_spec(name) for name in OFFERED]
    return [Path(place) for spec in specs if spec for place in spec.submodule_search_locations or ()]


def copy_agentd(root: Path) -> str:
    """The directory with this version of agentd, made if it is missing.

    A version is never changed in place: what runs may still import from it. Raises OSError.
    """
    make_directory(root, 0o711)
    shelf = root / LIB
    make_directory(shelf, 0o755)
    target = shelf / agentd_version()[:16]
    if target.is_dir():
        return str(target)
    draft = shelf / f".{secrets.token_hex(8)}"
    try:
        copy = draft / "reconciler"
        copy.mkdir(parents=True)
        shutil.copyfile(_package() / "__init__.py", copy / "__init__.py")
        if (_package() / "agentd").is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(_package() / "agentd", copy / "agentd", ignore=ignore)
        for source in _offered():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, draft / source.name, ignore=ignore)
        for folder, _, files in os.walk(draft):
            os.chmod(folder, 0o755)  # noqa: S103 - for every instance
            for name in files:
                os.chmod(os.path.join(folder, name), 0o644)
        os.rename(draft, target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return str(target)


def choose_version(host: Host, version: str) -> Host:
    """The host with the named version of agentd, as long as its copy is there."""
    pinned = os.path.join(os.path.dirname(host.lib), version[:16])
    return replace(host, lib=pinned) if os.path.isdir(pinned) else host


def compile_shim(root: Path) -> str:
    """The shim in a form that starts faster and takes a megabyte less, made if it is missing.

    Raises OSError.
    """
    make_directory(root, 0o711)
    make_directory(root / LIB, 0o755)
    version = hashlib.sha256(shim.read_bytes(shim.__file__) + sys.version.encode()).hexdigest()
    target = root / LIB / f"shim-{version[:16]}.pyc"
    if not target.exists():
        py_compile.compile(shim.__file__, cfile=str(target), doraise=True)
    return str(target)


def make_directory(path: Path, mode: int) -> None:
    """Make it with exactly this mode, and missing parents; an existing one is left alone."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(exist_ok=True)
    path.chmod(mode)


def describe_limitations(host: Host) -> tuple[str, ...]:
    """What cannot be enforced here, one sentence each, for the operator."""
    said = [
        "The network is not isolated: an instance reaches whatever this machine reaches.",
        "The file system is not isolated: an instance reads every file that its user may read.",
        "Disk use is not limited, except that no single file grows beyond the disk limit.",
    ]
    if os.geteuid() != 0:
        said.append(
            "The hub is not root, so all instances run as its own user: they can read and change"
            " each other's files, the hub's data and read-only workspaces, and end each other."
        )
    elif not host.has_own_uids:
        said.append(
            "No Python 3.9 or newer on this machine can be run by another user with the runtime's"
            " directory readable, so all instances run as root, without capabilities: they can"
            " read each other's secrets and write to read-only workspaces."
        )
    by_cgroup = host.cgroups.enforced
    if "cpus" not in by_cgroup:
        said.append("CPU time is not limited: no cgroup may be used.")
    if "memory_bytes" not in by_cgroup:
        said.append("Memory is limited per process, not per instance: no cgroup may be used.")
    if "pids" not in host.enforced:
        said.append("The number of processes is not limited: no cgroup may be used.")
    return tuple(said)


def describe_version() -> str:
    return f"Python {platform.python_version()} on {platform.system()} {platform.release()}"


def _package() -> Path:
    return Path(reconciler.__file__).parent


def _find_interpreter(lib: str, uid: int) -> str | None:
    """The first Python that a user with no rights at all can run agentd with."""
    for candidate in dict.fromkeys((sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")):
        try:
            trial = subprocess.run(
                [candidate, "-c", _TRIAL],
                user=uid,
                group=uid,
                extra_groups=[],
                env={"PYTHONPATH": lib},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TRIAL_S,
                check=False,
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        if trial.returncode == 0:
            return candidate
    return None
