"""A data directory into one file and back: databases as of one moment each, keys, artefacts, evidence, workspaces.

The file is a tar archive, compressed, for its owner only. Its last member names every other one with its digest, so
that a file that was cut short or changed is refused before anything is put in place. What can be made again is left
out: snapshots of revisions, logs, locks.
"""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from reconciler.errors import StoreError, UsageError
from reconciler.store.copy import copy_database
from reconciler.store.migrations import SCHEMA_VERSION

_FORMAT = 1
_CONTENTS = "backup.json"
_LOCKS = ("lock", "traffic.lock")
_LEFT_OUT = (*_LOCKS, "traffic.reserve", "workspaces", "log")
_KEY = "fleet.json"
_REPLACED = "replaced-"
_DRAFT = ".restore.new"
_DATABASES = (".db-wal", ".db-shm")
_IN_MEMORY_BYTES = 8 * 2**20


@dataclass(slots=True)
class Contents:
    """What is in a backup: digest by file, target by symbolic link, and mode and owner of each, folders too."""

    fleet: str
    schema: int
    made_at: str
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    modes: dict[str, list[int]] = field(default_factory=dict)
    size_bytes: int = 0


def write_backup(state: Path, target: Path, fleet: str, now: datetime) -> Contents:
    """Copy the data directory `state` into `target`, which is replaced. A hub may run. Raises StoreError."""
    contents = Contents(fleet=fleet, schema=0, made_at=now.isoformat())
    draft = target.with_name(f".{target.name}.new")
    with _translated(f"writing the backup {target}"):
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
                    _add_databases(archive, state, target.parent, contents)
                    for path in _rest(state):
                        _add(archive, path.relative_to(state).as_posix(), path, contents, target.parent)
                    _add_bytes(archive, _CONTENTS, _show(contents))
                out.flush()
                os.fsync(out.fileno())
            draft.rename(target)
        finally:
            draft.unlink(missing_ok=True)
    return contents


def unpack_backup(file: Path, state: Path, *, replace: bool) -> Contents:
    """Unpack a backup beside what is in the data directory, whose lock the caller holds.

    Raises UsageError where something is there without `replace`, StoreError where the backup is not whole.
    """
    there = _there(state)
    if there and not replace:
        raise UsageError(f"{state} is not empty ({there[0].name}, …); name an empty one with --data, or say --replace")
    draft = state / _DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with _translated(f"reading the backup {file}; nothing was changed"):
            draft.mkdir(mode=0o700)
            return _unpack(file, draft)
    except StoreError:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def put_in_place(state: Path, now: datetime) -> None:
    """Make what was unpacked the data directory; what was there is moved into `replaced-<time>`. Raises StoreError.

    `fleet.json` goes first and comes last: without it no hub takes what is half in place for a fleet.
    """
    with _translated(f"restoring into {state}; run it again with --replace"):
        there = sorted(_there(state), key=lambda p: p.name != _KEY)
        replaced = state / f"{_REPLACED}{now:%Y%m%dT%H%M%S}"
        if there:
            replaced.mkdir(mode=0o700)
        for path in there:
            path.rename(replaced / path.name)
        for path in sorted((state / _DRAFT).iterdir(), key=lambda p: p.name == _KEY):
            path.rename(state / path.name)
        (state / _DRAFT).rmdir()


def _there(state: Path) -> list[Path]:
    """What a restore would overwrite, or mix with what it brings."""
    return [
        path
        for path in sorted(state.iterdir())
        if path.name not in (*_LOCKS, ".gitignore", _DRAFT) and not path.name.startswith(_REPLACED)
    ]


def _add_databases(archive: tarfile.TarFile, state: Path, scratch: Path, contents: Contents) -> None:
    """state.db last, so that it lacks nothing of what agents had reported; its cursor is set back to what was."""
    names = sorted((p.name for p in state.glob("*.db")), key=lambda name: (name == "state.db", name))
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=scratch) as folder:
        for name in names:
            copy = Path(folder) / name
            copy_database(state / name, copy)
            if name == "state.db":
                contents.schema = _settle(copy, Path(folder) / "traffic.db")
        for name in names:
            _add(archive, name, Path(folder) / name, contents, scratch)


def _settle(state: Path, traffic: Path) -> int:
    """Set the cursor back to what is in the copied message log; returns the schema."""
    with closing(sqlite3.connect(state)) as connection, connection:
        if traffic.exists():
            connection.execute("ATTACH ? AS traffic", (str(traffic),))
            connection.execute(
                "UPDATE meta SET value = min(CAST(value AS INTEGER), coalesce("
                "(SELECT seq FROM traffic.sqlite_sequence WHERE name = 'hub_inbox'), 0))"
                " WHERE key = 'hub_inbox_cursor'"
            )
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    return int(row[0]) if row else 1


def _rest(state: Path) -> Iterator[Path]:
    """All else that lasts, folders before what is in them."""
    for top in sorted(state.iterdir()):
        is_copy = top.name.startswith(("state.db.v", _REPLACED)) or (top.name[0] == "." and top.name != ".gitignore")
        if is_copy or top.name in _LEFT_OUT or top.suffix == ".db" or top.name.endswith(_DATABASES):
            continue
        yield top
        if not top.is_symlink():
            yield from (p for p in _below(top) if p.suffix != ".new")


def _below(folder: Path) -> Iterator[Path]:
    """Everything in a folder; what goes away meanwhile, such as old evidence, is passed over."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted([*folders, *files]))


def _add(archive: tarfile.TarFile, name: str, path: Path, contents: Contents, scratch: Path) -> None:
    """One file, link or folder; what went away meanwhile, and sockets and the like, are left out."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            contents.links[name] = os.readlink(path)
        elif stat.S_ISREG(found.st_mode):
            # Somebody may be writing to it: its size must be known before it goes into the archive.
            with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(scratch)) as copy:
                with path.open("rb") as source:
                    digest = _copy(source, copy)
                member = tarfile.TarInfo(name)
                member.size = copy.tell()
                copy.seek(0)
                archive.addfile(member, copy)
            contents.files[name] = digest
            contents.size_bytes += member.size
        elif not stat.S_ISDIR(found.st_mode):
            return
        contents.modes[name] = [stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid]


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy to the end; returns the SHA-256 in hex."""
    digest = hashlib.sha256()
    while piece := source.read(2**20):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def _show(contents: Contents) -> bytes:
    value = {"format": _FORMAT} | {name: getattr(contents, name) for name in Contents.__slots__}
    return json.dumps(value, sort_keys=True).encode()


def _unpack(file: Path, draft: Path) -> Contents:
    """All files of a backup, below `draft`, each proven by its digest; then folders' modes, owners and links."""
    digests: dict[str, str] = {}
    said: dict[str, Any] = {}
    with tarfile.open(file, mode="r|gz") as archive:
        for member in archive:
            source = archive.extractfile(member)
            if source is None:
                raise ValueError(f"it holds {member.name!r}, which is no file")
            if member.name == _CONTENTS:
                said = json.loads(source.read())
                continue
            target = draft / _inside(member.name)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                digests[member.name] = _copy(source, out)
                out.flush()
                os.fsync(out.fileno())
    if said.pop("format", None) != _FORMAT:
        raise ValueError("it has no list of what is in it, or one of another format; it was cut short, or is no backup")
    try:
        contents = Contents(**said)
    except TypeError as exc:
        raise ValueError(f"its list of what is in it is odd: {exc}") from exc
    if contents.files != digests:
        wrong = sorted(contents.files.items() ^ digests.items())[0][0]
        raise ValueError(f"{wrong} is missing or was changed: it does not have its digest")
    if contents.schema > SCHEMA_VERSION:
        raise ValueError(f"it is of a newer release (schema {contents.schema}, this one knows {SCHEMA_VERSION})")
    _finish(draft, contents)
    return contents


def _finish(draft: Path, contents: Contents) -> None:
    for name in contents.modes:
        if name not in contents.files and name not in contents.links:
            (draft / _inside(name)).mkdir(mode=0o700, parents=True, exist_ok=True)
    # Links come last, so that nothing is written through one.
    for name, target in contents.links.items():
        (draft / _inside(name)).symlink_to(target)
    for name, (mode, uid, gid) in sorted(contents.modes.items(), reverse=True):
        path = draft / _inside(name)
        if os.geteuid() == 0:
            os.lchown(path, uid, gid)
        if name not in contents.links:
            path.chmod(mode)


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"it names {name!r}, which is outside of a data directory")
    return path


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, sqlite3.Error, tarfile.TarError, zlib.error) as exc:
        raise StoreError(f"{doing}: {exc}") from exc
