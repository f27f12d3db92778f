"""Limits by cgroup for the process runtime, version 1 or 2, where this hub may use them.

In: mount table and own membership as text, names and limits. Effects: directories below
`reconciler-<fleet>` in the cgroup file systems are made, written and removed; nothing else is.

A hub that something else has put into a group of its own (a service manager, a container platform)
divides that group only where it is marked as delegated, and never moves anything out of it: the
rule of https://systemd.io/CGROUP_DELEGATION. Without a usable group the runtime falls back on
resource limits. A service unit that wants cgroups says `Delegate=yes`, `DelegateSubgroup=hub` and
`KillMode=process`.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.ports import Limits

CPU_PERIOD_US = 100_000
PAGE_BYTES = 4096
_CONTROLLER_BY_LIMIT = {"cpus": "cpu", "memory_bytes": "memory", "pids": "pids"}
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    root: str
    point: Path
    kind: str
    options: frozenset[str]


class Cgroups:
    """The groups of one fleet. `directories` maps each limit that is enforced to the fleet's own
    directory in the hierarchy that enforces it."""

    def __init__(self, directories: Mapping[str, Path], *, unified: bool) -> None:
        self._directories = dict(directories)
        self._unified = unified

    @property
    def enforced(self) -> frozenset[str]:
        """Names of fields of `Limits`."""
        return frozenset(self._directories)

    def groups(self, name: str) -> list[Path]:
        """The directories of one instance, each once, whether they exist or not."""
        return sorted({directory / name for directory in self._directories.values()})

    def prepare(self, name: str, limits: Limits) -> None:
        """Make the groups anew, with fresh counters. Raises OSError."""
        self.remove(name)
        for directory in set(self._directories.values()):
            self._make(directory, name)
        self.apply(name, limits)

    def apply(self, name: str, limits: Limits) -> None:
        """Set the limits of existing groups. Raises OSError, as when more memory is used."""
        quota_us = max(1000, round(limits.cpus * CPU_PERIOD_US))
        if directory := self._directories.get("cpus"):
            self._apply_cpus(directory / name, quota_us)
        if directory := self._directories.get("memory_bytes"):
            self._apply_memory(directory / name, limits.memory_bytes)
        if directory := self._directories.get("pids"):
            _write(directory / name / "pids.max", limits.pids)

    def read(self, name: str) -> dict[str, float | int | None]:
        """The limits really in force, by field of `Limits`; None is none. Raises OSError."""
        found: dict[str, float | int | None] = {}
        if directory := self._directories.get("cpus"):
            found["cpus"] = self._read_cpus(directory / name)
        if directory := self._directories.get("memory_bytes"):
            file = "memory.max" if self._unified else "memory.limit_in_bytes"
            found["memory_bytes"] = _number((directory / name / file).read_text())
        if directory := self._directories.get("pids"):
            found["pids"] = _number((directory / name / "pids.max").read_text())
        return found

    def memory_in_use_bytes(self, name: str) -> int:
        """What dropping file caches would not give back; 0 when unknown. Raises OSError."""
        if not (directory := self._directories.get("memory_bytes")):
            return 0
        usage = "memory.current" if self._unified else "memory.usage_in_bytes"
        cache = "inactive_file" if self._unified else "total_inactive_file"
        lines = (directory / name / "memory.stat").read_text().splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith(f"{cache} ")), 0)
        return max(0, (_number((directory / name / usage).read_text()) or 0) - cached)

    def members(self, name: str) -> set[int]:
        """Numbers of the processes in the groups."""
        found: set[int] = set()
        for group in self.groups(name):
            try:
                found.update(int(line) for line in (group / "cgroup.procs").read_text().split())
            except OSError:
                continue
        return found

    def is_out_of_memory(self, name: str) -> bool:
        """Whether the kernel killed a process for want of memory since `prepare`."""
        if not (directory := self._directories.get("memory_bytes")):
            return False
        file = "memory.events" if self._unified else "memory.oom_control"
        try:
            lines = (directory / name / file).read_text().splitlines()
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines)

    def remove(self, name: str) -> None:
        """Remove the groups; absent is fine. Raises OSError while processes are left in them."""
        deadline = time.monotonic() + _PATIENCE_S
        for group in self.groups(name):
            while True:
                try:
                    group.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    # The last process has ended, but the kernel takes a moment to let go of it.
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)

    def remove_empty(self) -> None:
        """Remove the fleet's own directories where no instance is left in them."""
        for directory in set(self._directories.values()):
            try:
                directory.rmdir()
            except OSError:
                continue

    def _make(self, directory: Path, name: str) -> None:
        for is_last in (False, False, True):
            directory.mkdir(exist_ok=True)
            if self._unified:
                _enable(directory)
            try:
                (directory / name).mkdir()
                return
            except FileNotFoundError:
                # The last other instance has just gone, and the fleet's directory with it.
                if is_last:
                    raise

    def _apply_cpus(self, group: Path, quota_us: int) -> None:
        if self._unified:
            _write(group / "cpu.max", f"{quota_us} {CPU_PERIOD_US}")
            return
        _write(group / "cpu.cfs_period_us", CPU_PERIOD_US)
        _write(group / "cpu.cfs_quota_us", quota_us)

    def _read_cpus(self, group: Path) -> float | None:
        if self._unified:
            quota, _, period = (group / "cpu.max").read_text().partition(" ")
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        used, per = _number(quota), _number(period)
        return used / per if used is not None and used > 0 and per else None

    def _apply_memory(self, group: Path, memory_bytes: int) -> None:
        """Memory and swap together are the limit, as with Docker."""
        if self._unified:
            _write(group / "memory.max", memory_bytes)
            if (group / "memory.swap.max").exists():
                _write(group / "memory.swap.max", 0)
            return
        both = [group / "memory.limit_in_bytes", group / "memory.memsw.limit_in_bytes"]
        files = [file for file in both if file.exists()]
        try:
            for file in files:
                _write(file, memory_bytes)
        except OSError:
            # Raising: the sum with swap must never be below the memory alone.
            for file in reversed(files):
                _write(file, memory_bytes)


def find_cgroups(fleet: str) -> Cgroups:
    """What this hub may use on this machine; often nothing. Makes v2 directories to find out."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text()
        membership = Path("/proc/self/cgroup").read_text()
    except OSError:
        return Cgroups({}, unified=False)
    return choose_cgroups(fleet, mountinfo, membership)


def choose_cgroups(fleet: str, mountinfo: str, membership: str) -> Cgroups:
    """As `find_cgroups`, from the text of `/proc/self/mountinfo` and `/proc/self/cgroup`."""
    mounts = list(_parse_mounts(mountinfo))
    own = {c: line[2] for line in _parse_membership(membership) for c in line[1].split(",")}
    first: dict[str, Path] = {}
    for limit, controller in _CONTROLLER_BY_LIMIT.items():
        for mount in mounts:
            is_here = mount.kind == "cgroup" and controller in mount.options
            if is_here and own.get(controller) == mount.root == "/" and _is_writable(mount.point):
                first[limit] = mount.point / f"reconciler-{fleet}"
    if first:
        return Cgroups(first, unified=False)
    for mount in mounts:
        if mount.kind == "cgroup2" and (base := _find_delegated(mount, own.get("", ""))):
            return _choose_unified(base, base / f"reconciler-{fleet}")
    return Cgroups({}, unified=True)


def _choose_unified(base: Path, directory: Path) -> Cgroups:
    try:
        _enable(base)
        directory.mkdir(exist_ok=True)
        _enable(directory)
        enabled = (directory / "cgroup.subtree_control").read_text().split()
    except OSError:
        return Cgroups({}, unified=True)
    found = {limit: directory for limit, c in _CONTROLLER_BY_LIMIT.items() if c in enabled}
    return Cgroups(found, unified=True)


def _find_delegated(mount: _Mount, own: str) -> Path | None:
    """What may be divided: the root where nobody confines us, else a delegated group."""
    if own == mount.root == "/":
        return mount.point if _is_writable(mount.point) else None
    inside = Path(own)
    if not own or not inside.is_relative_to(mount.root):
        return None
    here = mount.point / inside.relative_to(mount.root)
    candidates = [d for d in (here, here.parent) if d.is_relative_to(mount.point)]
    return next((d for d in candidates if _is_delegated(d) and _is_writable(d)), None)


def _is_delegated(directory: Path) -> bool:
    for attribute in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(directory, attribute) == b"1":
                return True
        except OSError:
            continue
    return False


def _is_writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK)


def _enable(directory: Path) -> None:
    """Let the children have what there is; a controller that the kernel refuses stays off."""
    for controller in _CONTROLLER_BY_LIMIT.values():
        try:
            _write(directory / "cgroup.subtree_control", f"+{controller}")
        except OSError:
            continue


def _parse_mounts(mountinfo: str) -> Iterator[_Mount]:
    """See proc(5): root and mount point are fields 4 and 5; type and options follow a dash."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) > 4 and len(kind) > 2:
            options = frozenset(kind[2].split(","))
            yield _Mount(root=fields[3], point=Path(fields[4]), kind=kind[0], options=options)


def _parse_membership(membership: str) -> Iterator[tuple[str, str, str]]:
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield number, controllers, path


def _write(file: Path, value: object) -> None:
    with open(file, "wb", buffering=0) as out:
        out.write(str(value).encode())


def _number(text: str) -> int | None:
    return int(text) if text.strip().lstrip("-").isdigit() else None
