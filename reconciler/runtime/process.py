"""Containers as plain processes, for a machine with no container engine.

In: container specs and ids. Out: what there is of this fleet. Effects: below `root`, one directory
per container (see `process_record.py`), one shim process per running one (see `shim.py`), cgroups
of the fleet. Everything is in files: another hub process finds it all, and goes on.

What this is not is a sandbox: `facts` says what it cannot enforce.
"""

import os
import re
import secrets
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.crashpoint import point
from reconciler.errors import NameTakenError, RuntimeRefusedError, RuntimeUnavailableError
from reconciler.ports import ContainerSpec, ContainerState, ContainerSummary, Limits, RuntimeEvent, RuntimeFacts, Usage
from reconciler.runtime import shim
from reconciler.runtime.process_events import Journal
from reconciler.runtime.process_host import (
    Host,
    agentd_version,
    choose_version,
    compile_shim,
    copy_agentd,
    describe_limitations,
    describe_version,
    find_host,
    make_directory,
)
from reconciler.runtime.process_launch import build_launch
from reconciler.runtime.process_limits import apply_limits
from reconciler.runtime.process_record import (
    Observed,
    Phase,
    Record,
    compared_fields,
    observe,
    read_record,
    write_record,
)
from reconciler.runtime.process_shim import Start, await_start, end_shim, revoke_start, settle, start_shim
from reconciler.runtime.process_survivors import Signs, marker
from reconciler.runtime.process_tree import (
    delete_leftovers,
    delete_tree,
    lock_directory,
    make_container,
    put_aside,
    renew_private,
)
from reconciler.runtime.process_uids import UID_BASE, allocate_uid
from reconciler.runtime.process_usage import read_usage

LOG_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_IMAGE = re.compile(r"process:[0-9a-f]{64}")
_UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """A container that there is. `record` is None when what it shall be cannot be read."""

    name: str
    record: Record | None


class ProcessRuntime:
    """`ports.Runtime` on plain processes. May be used by many threads and processes at once.

    `root` is on a local file system, in a directory that the instances' users may enter.
    `uid_base` is where the user ids of instances begin, if the hub is root. `log_bytes` is the
    most that each of a container's two log files grows to. Does nothing before the first call.
    """

    def __init__(self, fleet: str, root: Path, *, uid_base: int = UID_BASE, log_bytes: int = LOG_BYTES) -> None:
        self._fleet = fleet
        self._root = Path(os.path.abspath(root))
        self._uid_base = uid_base
        self._log_bytes = log_bytes
        self._journal = Journal(str(self._root), self.list)
        self._lock = threading.Lock()
        self._found: Host | None = None

    @property
    def name(self) -> str:
        return "process"

    def close(self) -> None:
        """End all event iterators. Containers go on."""
        self._journal.close()

    def facts(self) -> Reading[RuntimeFacts]:
        try:
            limitations = describe_limitations(self._host())
        except OSError as error:
            return Unavailable(reason=f"prepare {self._root}: {error}")
        facts = RuntimeFacts(name=self.name, version=describe_version(), limitations=limitations)
        return Ok(facts)

    def uid_for(self, name: str) -> int:
        """The user id that the container of this name runs with, before and after it exists.

        Whoever makes what it alone may read (secrets, socket) gives that to this user. It is the
        hub's own where instances cannot have their own. Raises RuntimeUnavailableError.
        """
        with _doing(f"choose a user id for {name}"):
            uid = self._own_uid(name)
            return os.geteuid() if uid is None else uid

    def resolve_image(self, reference: str) -> Reading[str]:  # noqa: ARG002 - the port's
        """The same for each reference: `process:` and the SHA-256 of agentd's code.

        There are no images here; what runs is agentd and this machine's programs.
        """
        try:
            return Ok(f"process:{agentd_version()}")
        except OSError as error:
            return Unavailable(reason=f"read agentd's code: {error}")

    def normalise(self, spec: ContainerSpec) -> Mapping[str, Any]:
        """The compared fields; a limit that nothing here enforces is None."""
        with _doing(f"look at container {spec.name}"):
            return self._fields(spec, has_own_uid=self._host().has_own_uids)

    def list(self) -> Reading[Sequence[ContainerSummary]]:
        """One scan of the directory. Where a shim is found dead, what is left of its instance is
        killed first, so that `exited` always means that nothing runs."""
        try:
            boot_id = shim.read_boot_id()
            names = [name for name in os.listdir(self._root) if not name.startswith(".")]
            found = [self._summary(name, boot_id) for name in names]
        except FileNotFoundError:
            return Ok([])
        except OSError as error:
            return Unavailable(reason=f"list {self._root}: {error}")
        return Ok([summary for summary in found if summary is not None])

    def list_labelled(self, label: str, value: str) -> Reading[Sequence[ContainerSummary]]:
        """As `list`: this runtime keeps one fleet's processes, and knows of no other's."""
        listed = self.list()
        if not isinstance(listed, Ok):
            return listed
        return Ok([c for c in listed.value if c.labels.get(label) == value])

    def inspect(self, name: str) -> Reading[ContainerState]:
        try:
            box = self._find(name)
            if box is None:
                return Absent()
            return Ok(self._state(box, self._look(name, shim.read_boot_id())))
        except OSError as error:
            return Unavailable(reason=f"inspect container {name}: {error}")

    def usage(self, name: str) -> Reading[Usage]:
        """Of the processes that live below its shim, and of those that they waited for."""
        try:
            seen = self._look(name, shim.read_boot_id())
            run = seen.run if seen.phase == Phase.RUNNING else None
            found = read_usage(run.pid) if run is not None else None
        except OSError as error:
            return Unavailable(reason=f"look what container {name} uses: {error}")
        return Ok(found) if found is not None else Absent()

    def create(self, spec: ContainerSpec) -> str:
        """Also refused: another runtime's image, a name that is no file name, and a mount whose
        source is not there."""
        with _doing(f"create container {spec.name}"):
            if not _NAME.fullmatch(spec.name):
                raise RuntimeRefusedError(f"{spec.name!a} cannot be a file name")
            if not _IMAGE.fullmatch(spec.image_id):
                raise RuntimeRefusedError(f"{spec.image_id!a} is another runtime's image")
            for mount in spec.mounts:
                if not os.path.exists(mount.source):
                    raise RuntimeRefusedError(f"mount source {mount.source} does not exist")
            container_id = f"{spec.name}@{secrets.token_hex(8)}"
            uid = self._own_uid(spec.name)
            record = Record(id=container_id, fleet=self._fleet, uid=uid, spec=spec)
            make_directory(self._root, 0o711)
            if not make_container(self._root, record):
                raise NameTakenError("there is one of that name")
            point("process.create.made")
            self._journal.append(spec.name, "create")
            return container_id

    def start(self, container_id: str) -> None:
        """Returns once the program runs. Refused when it cannot be executed."""
        with _doing(f"start container {container_id}"), self._locked(container_id) as box:
            record = _require(box)
            if self._settle(record.spec.name).is_starting:
                await_start(self._path(record.spec.name), shim.read_boot_id())
            if self._settle(record.spec.name).phase != Phase.RUNNING:
                self._start(record)

    def update(self, container_id: str, limits: Limits) -> None:
        """Also refused: less memory than is used, more than a user may take in place."""
        with _doing(f"update container {container_id}"), self._locked(container_id) as box:
            record = _require(box)
            seen = self._settle(record.spec.name)
            if seen.shim is not None:
                apply_limits(record, limits, self._host(), seen.shim.pid)
            changed = replace(record, spec=replace(record.spec, limits=limits))
            write_record(self._path(record.spec.name), changed)
            self._journal.append(record.spec.name, "update")

    def stop(self, container_id: str, grace_s: float) -> None:
        with _doing(f"stop container {container_id}"), self._locked(container_id) as box:
            if box is not None:
                self._end(box.name, grace_s)

    def remove(self, container_id: str) -> None:
        with _doing(f"remove container {container_id}"), self._locked(container_id) as box:
            if box is None:
                return
            self._end(box.name, 0.0)
            self._host().cgroups.remove(box.name)
            self._host().cgroups.remove_empty()
            point("process.remove.ended")
            gone = put_aside(self._root, box.name)
            point("process.remove.renamed")
            self._journal.append(box.name, "destroy")
            delete_tree(gone)

    def logs(self, container_id: str, tail: int) -> str:
        """Standard output and error as they came, as far back as the log files go."""
        with _doing(f"read logs of container {container_id}"):
            box = self._find(container_id)
            if box is None:
                raise RuntimeRefusedError("there is no such container")
            content = b""
            for file in (f"{shim.LOG}.1", shim.LOG):
                with suppress(FileNotFoundError):
                    content += shim.read_bytes(f"{self._path(box.name)}/{file}")
        lines = content.decode(errors="replace").splitlines(keepends=True)
        return "".join(lines[-tail:]) if tail > 0 else ""

    def events(self, since_ns: int) -> Iterator[RuntimeEvent]:
        """Ends at `close`. The journal keeps some 20,000 events for `since_ns`."""
        return self._journal.follow(since_ns)

    # --- what there is ----------------------------------------------------------------------------

    def _host(self) -> Host:
        """Found out once. Raises OSError."""
        with self._lock:
            if self._found is None:
                self._found = find_host(self._fleet, self._root, self._uid_base)
                with suppress(OSError):
                    delete_leftovers(self._root)
            return self._found

    def _own_uid(self, name: str) -> int | None:
        if not self._host().has_own_uids:
            return None
        return allocate_uid(self._root / ".uids", self._uid_base, self._fleet, name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _find(self, container_id: str) -> _Box | None:
        """By id, or by name alone; a damaged one is found by any id. Raises OSError."""
        name, _, rest = container_id.partition("@")
        if not _NAME.fullmatch(name):
            return None
        match read_record(self._path(name)):
            case Ok(record) if record.fleet == self._fleet and (not rest or container_id == record.id):
                return _Box(name=name, record=record)
            case Unavailable():
                return _Box(name=name, record=None)
        return None

    def _summary(self, name: str, boot_id: str) -> ContainerSummary | None:
        box = self._find(name)
        if box is None:
            return None
        state = str(self._look(name, boot_id).phase)
        if box.record is None:
            return ContainerSummary(id=f"{name}@{_UNREADABLE}", name=name, state=state, labels={}, image_id="")
        return ContainerSummary(
            id=box.record.id,
            name=name,
            state=state,
            labels=box.record.labels,
            image_id=box.record.spec.image_id,
        )

    def _state(self, box: _Box, seen: Observed) -> ContainerState:
        """A damaged container has no fields, so that it differs from whatever it shall be."""
        record, run = box.record, seen.run
        is_running, has_exited = seen.phase == Phase.RUNNING, seen.phase == Phase.EXITED
        fields: dict[str, Any] = {}
        if record is not None:
            fields = self._fields(record.spec, has_own_uid=record.uid is not None)
        if record is not None and seen.shim is not None and not seen.is_starting:
            fields["limits"] |= self._read_limits(box.name)
        return ContainerState(
            id=record.id if record else f"{box.name}@{_UNREADABLE}",
            name=box.name,
            state=str(seen.phase),
            fields=fields,
            labels=record.labels if record else {},
            exit_code=run.exit_code if run and has_exited else None,
            oom_killed=has_exited and self._host().cgroups.is_out_of_memory(box.name),
            started_at=run.started_at if run else "",
            pid=run.pid if run and is_running else 0,
        )

    def _fields(self, spec: ContainerSpec, *, has_own_uid: bool) -> dict[str, Any]:
        enforced = self._host().enforced
        return compared_fields(spec, self._fleet, enforced, has_own_uid=has_own_uid)

    def _read_limits(self, name: str) -> dict[str, float | int | None]:
        """What the kernel really enforces by cgroup; a group that is gone enforces nothing."""
        cgroups = self._host().cgroups
        try:
            return cgroups.read(name)
        except FileNotFoundError:
            return dict.fromkeys(cgroups.enforced)

    def _look(self, name: str, boot_id: str) -> Observed:
        """What goes on; a lost container is settled unless somebody is at it. Raises OSError."""
        path = self._path(name)
        seen = observe(path, boot_id)
        if seen.phase != Phase.LOST:
            return seen
        try:
            with lock_directory(path, wait=False):
                return self._settle(name)
        except (BlockingIOError, FileNotFoundError, RuntimeUnavailableError):
            return replace(seen, phase=Phase.RUNNING)

    # --- what is done, with the container's lock held ---------------------------------------------

    @contextmanager
    def _locked(self, container_id: str) -> Iterator[_Box | None]:
        """The container for this process and thread alone; None when there is none."""
        name = container_id.partition("@")[0]
        if self._find(container_id) is None:
            yield None
            return
        with lock_directory(self._path(name), wait=True) as is_there:
            yield self._find(container_id) if is_there else None

    def _settle(self, name: str) -> Observed:
        host = self._host()
        uid = self._own_uid(name)
        signs = Signs(
            owner=marker(self._fleet, f"{name}@"),
            uid=uid,
            members=lambda: host.cgroups.members(name),
        )
        return settle(self._path(name), shim.read_boot_id(), signs)

    def _start(self, record: Record) -> None:
        host, path = self._host(), self._path(record.spec.name)
        token = secrets.token_hex(8)
        if not (os.path.isdir(host.lib) and os.path.exists(host.shim)):
            copy_agentd(self._root)
            compile_shim(self._root)
        try:
            pinned = choose_version(host, record.spec.image_id.removeprefix("process:"))
            launch = build_launch(record, path, pinned, token, self._log_bytes)
        except ValueError as error:
            raise RuntimeRefusedError(str(error)) from error
        renew_private(Path(path), record.uid)
        host.cgroups.prepare(record.spec.name, record.spec.limits)
        start = Start(program=host.shim, path=path, launch=launch, token=token, marker=marker(self._fleet, record.id))
        try:
            start_shim(start, shim.read_boot_id())
        except (OSError, RuntimeRefusedError, RuntimeUnavailableError):
            revoke_start(path)
            raise

    def _end(self, name: str, grace_s: float) -> None:
        path = self._path(name)
        revoke_start(path)
        seen = self._settle(name)
        if seen.shim is not None:
            end_shim(seen.shim, grace_s)
        if self._settle(name).phase == Phase.RUNNING:
            raise RuntimeUnavailableError("it does not end")


def _require(box: _Box | None) -> Record:
    if box is None:
        raise RuntimeRefusedError("there is no such container")
    if box.record is None:
        raise RuntimeRefusedError("its spec.json is damaged; remove it and create it again")
    return box.record


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """Translate what the operating system raises, and say what was being done to what."""
    try:
        yield
    except RuntimeRefusedError as error:
        raise type(error)(f"{what}: {error}") from error
    except (RuntimeUnavailableError, OSError, subprocess.SubprocessError) as error:
        raise RuntimeUnavailableError(f"{what}: {error}") from error
