"""The places of a fleet: its data directory with lock, id and key, its run-time directory, its source, its operator.

Nothing heavy is imported here, so that the quick commands stay quick.
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.origin import is_remote, parse_origin
from reconciler.core.problem import Problem
from reconciler.errors import LockedError, StoreError, UsageError
from reconciler.ports import Source
from reconciler.settings import Operator, OperatorSpec
from reconciler.settings_source import OperatorSource

if TYPE_CHECKING:
    from reconciler.source.signed import Signatures

FLEET_FILE = "fleet.json"
LOCK_FILE = "lock"
MIRROR = "mirror"
"""In the data directory: what was fetched of a remote repository."""
HOME_FILE = "home"
"""In the run-time directory: the path of the data directory that it belongs to."""
MAX_SOCKET_PATH = 107
LONGEST_INSTANCE = 43


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """One data directory: which fleet it is, and where its files are. `run` is on tmpfs and gone after a reboot."""

    state: Path
    run: Path
    fleet: str
    seal_key: bytes


def data_folder(source: str, data: str | None) -> Path:
    """`--data`, or `.reconciler` beside the source; in the current directory where that is elsewhere."""
    place = "." if is_remote(source) else source
    return Path(data).absolute() if data else Path(place).absolute() / ".reconciler"


def read_operator(path: str | None) -> tuple[OperatorSpec, tuple[Problem, ...]]:
    """`operator.yaml`: the file named, else the user's or the system's, else safe defaults."""
    from pydantic import ValidationError

    from reconciler.core.yaml import load_documents
    from reconciler.kinds.manifest import validation_problems

    candidates = [path] if path else _operator_places()
    found = next((p for p in candidates if Path(p).is_file()), None)
    if found is None:
        if path:
            return OperatorSpec(), (Problem(file=path, message="is not there; name another file with --operator"),)
        return OperatorSpec(), ()
    try:
        content = Path(found).read_bytes()
    except OSError as exc:
        return OperatorSpec(), (Problem(file=found, message=f"cannot be read: {exc.strerror}"),)
    documents = load_documents(content, found)
    if documents.problems:
        return OperatorSpec(), documents.problems
    if len(documents.values) > 1:
        message = f"holds {len(documents.values)} documents; it must hold one"
        return OperatorSpec(), (Problem(file=found, message=message),)
    try:
        return Operator.model_validate(documents.values[0] if documents.values else None).spec, ()
    except ValidationError as exc:
        return OperatorSpec(), tuple(validation_problems(found, content, 0, exc, model=Operator))


def _operator_places() -> list[str]:
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [f"{config}/reconciler/operator.yaml", "/etc/reconciler/operator.yaml"]


def open_source(
    path: str,
    *,
    branch: str | None,
    worktree: bool = False,
    quarantine: str | None = None,
    signatures: "Signatures | None" = None,
) -> Source:
    """A git repository, or a plain directory where there is none (or `worktree`). Raises SourceError, UsageError.

    `quarantine` is where git keeps what is being pushed there, while a hook looks at it.
    """
    from reconciler.source.directory import DirectorySource
    from reconciler.source.layout import locate
    from reconciler.source.repository import LocalRepository

    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"{path} is not a directory; name a repository with --source")
    if not worktree and locate(str(folder)) is not None:
        return LocalRepository(str(folder.absolute()), branch, quarantine=quarantine, signatures=signatures)
    if signatures is not None:
        raise UsageError(f"{path} is no repository, but source.verify asks for signed commits")
    return DirectorySource(str(folder.absolute()))


def followed(source: str, operator: OperatorSource) -> OperatorSource:
    """What a hub follows: what `--source` names, else what the operator does. Raises UsageError."""
    if source == ".":
        return operator
    if is_remote(source):
        try:
            parse_origin(source)
        except ValueError as exc:
            raise UsageError(f"--source {exc}") from None
    return operator.model_copy(update={"url": source})


def open_followed(settings: OperatorSource, state: Path, branch: str | None) -> Source:
    """The repository that a hub follows; `branch` is for one of this host. Raises SourceError, UsageError."""
    from reconciler.source.remote import open_remote
    from reconciler.source.signed import open_signatures
    from reconciler.source.subdirectory import Subdirectory

    remote = settings.origin is not None
    signatures = open_signatures(settings.verify, str(settings.followed) if remote else branch or "")
    source = (
        open_remote(settings, str(state / MIRROR), signatures)
        if remote
        else open_source(settings.url, branch=branch, signatures=signatures)
    )
    return Subdirectory(source, settings.path) if settings.path is not None else source


@contextmanager
def lock(state: Path) -> Iterator[None]:
    """Hold the data directory: one hub at a time. Raises LockedError, StoreError."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o711)
        handle = os.open(state / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreError(
            f"the data directory {state} cannot be used: {exc.strerror}; name another with --data"
        ) from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(handle, 20, 0).decode().strip() or "unknown"
        os.close(handle)
        message = (
            f"another hub (pid {owner}) runs on {state}; stop it with Ctrl-C or `kill -INT {owner}` (its agents go "
            "on), or use another --data"
        )
        raise LockedError(message) from None
    os.truncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    try:
        yield
    finally:
        os.close(handle)


def is_locked(state: Path) -> bool:
    """Whether a hub runs on this data directory."""
    try:
        handle = os.open(state / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def open_home(state: Path, *, create: bool) -> Home | None:
    """The fleet of a data directory; made at first start. None where there is none and `create` is False.

    Raises StoreError when its files cannot be read or written.
    """
    file = state / FLEET_FILE
    try:
        if file.exists():
            value = json.loads(file.read_text(encoding="utf-8"))
            fleet, key = str(value["fleet"]), bytes.fromhex(value["key"])
        elif not create:
            return None
        else:
            state.mkdir(parents=True, exist_ok=True)
            fleet, key = secrets.token_hex(4), secrets.token_bytes(32)
            temporary = state / f".{FLEET_FILE}.new"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                json.dump({"fleet": fleet, "key": key.hex()}, out)
                out.flush()
                os.fsync(out.fileno())
            temporary.rename(file)
            (state / ".gitignore").write_text("# The fleet's key and record are not for git.\n*\n", encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StoreError(f"the fleet's identity in {file} cannot be used: {exc}") from exc
    return Home(state=state, run=run_folder(fleet), fleet=fleet, seal_key=key)


def run_folder(fleet: str) -> Path:
    """Where sockets and tokens of a fleet live. Raises UsageError when its socket paths would be too long."""
    if override := os.environ.get("RECONCILER_RUN"):
        base = Path(override)
    elif os.geteuid() == 0:
        base = Path("/run/reconciler")
    else:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        base = Path(runtime) / "reconciler" if runtime else Path(f"/tmp/reconciler-{os.geteuid()}")  # noqa: S108
    folder = base / fleet
    longest = len(str(folder)) + len("/hub/") + LONGEST_INSTANCE + len("/hub.sock")
    if longest > MAX_SOCKET_PATH:
        raise UsageError(
            f"socket paths below {folder} would have {longest} bytes; the system allows {MAX_SOCKET_PATH}; "
            "set RECONCILER_RUN to a shorter directory"
        )
    return folder


def prepare_run(home: Home) -> None:
    """Make the run-time directory: anyone may pass through it, nobody may list it; it says whose it is.

    Raises StoreError.
    """
    try:
        home.run.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        home.run.mkdir(mode=0o711, exist_ok=True)
        home.run.chmod(0o711)
        temporary = home.run / f".{HOME_FILE}.new"
        temporary.write_text(f"{home.state}\n", encoding="utf-8")
        temporary.replace(home.run / HOME_FILE)
    except OSError as exc:
        message = f"the run-time directory {home.run} cannot be made: {exc.strerror}; set RECONCILER_RUN to another"
        raise StoreError(message) from exc


def clear_run(home: Home) -> None:
    """Remove what is left of the run-time directory of a fleet of which nothing runs any more.

    Only what we make there goes: sockets without a listener, the process runtime's own files once it has no container,
    and empty directories. Anything else stays, with what it is in.
    """
    processes = home.run / "process"
    with suppress(OSError):
        if all(entry.name.startswith(".") for entry in processes.iterdir()):
            shutil.rmtree(processes)
    for file in ("api.sock", "control.sock", "router.pid", "egress.sock", "egress.pid", HOME_FILE):
        with suppress(OSError):
            (home.run / file).unlink()
    of_instances = [place for name in ("hub", "secrets") for place in (home.run / name).glob("*")]
    for folder in (*of_instances, home.run / "hub", home.run / "secrets", home.run):
        with suppress(OSError):
            folder.rmdir()
