"""Starting servers of the hub's own that outlive it, and keeping their logs from growing for ever."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

MAX_LOG_BYTES = 4 * 2**20


def spawn_detached(program: str, argv: list[str], environment: Mapping[str, str], log: str) -> int:
    """The pid of a process in a session of its own, without input, whose output goes to the end of `log` (0600).

    Raises OSError.
    """
    bound_logs(Path(log).parent)
    return os.posix_spawn(
        program,
        argv,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def bound_logs(folder: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Each `*.log` in the folder that has grown beyond `max_bytes` becomes `*.log.1`, and begins anew.

    Its content is copied, because a server that has it open goes on with the same file. What it says between copying
    and emptying is lost.
    """
    for log in folder.glob("*.log"):
        with contextlib.suppress(OSError):
            if log.lstat().st_size > max_bytes and not log.is_symlink():
                _put_aside(log)


def _put_aside(log: Path) -> None:
    """Emptied also where there is no room for a copy."""
    older = log.with_name(f"{log.name}.1")
    try:
        older.unlink(missing_ok=True)
        with log.open("rb") as source, open(older, "xb", opener=_open_private) as target:
            shutil.copyfileobj(source, target)
    finally:
        os.truncate(log, 0)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
