"""Directories below the process runtime's root: made, renewed and deleted, whatever is in them.

Effects: on the named directory only; links inside are not followed.
"""

import fcntl
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.runtime.process_record import HOME, TMP, Record, write_record

_NEW, _GONE = ".new-", ".gone-"
_ABANDONED_S = 3600.0


def make_container(root: Path, record: Record) -> bool:
    """Make the container's directory, whole or not at all; False when there is one.

    Raises OSError.
    """
    draft = root / f"{_NEW}{secrets.token_hex(8)}"
    draft.mkdir()
    try:
        draft.chmod(0o711)
        write_record(str(draft), record)
        renew_private(draft, record.uid)
        os.rename(draft, root / record.spec.name)
        return True
    except OSError:
        delete_tree(draft)
        if (root / record.spec.name).exists():
            return False
        raise


def put_aside(root: Path, name: str) -> Path:
    """Rename the container's directory to one that `delete_leftovers` deletes. Raises OSError."""
    gone = root / f"{_GONE}{secrets.token_hex(8)}"
    os.rename(root / name, gone)
    return gone


def renew_private(directory: Path, uid: int | None) -> None:
    """Give the instance an empty home and an empty `tmp` of its own. Raises OSError."""
    for path in (directory / HOME, directory / TMP):
        delete_tree(path)
        path.mkdir()
        path.chmod(0o700)
        if uid is not None:
            os.chown(path, uid, uid)


def delete_tree(directory: Path) -> None:
    """Absent is fine. Raises OSError."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except PermissionError:
        # Directories that their owner made unwritable, as some package managers do.
        os.chmod(directory, 0o700)
        for folder, below, _ in os.walk(directory):
            for name in below:
                if not os.path.islink(path := os.path.join(folder, name)):
                    os.chmod(path, 0o700)
        shutil.rmtree(directory)
    except RecursionError:
        if subprocess.run(["rm", "-rf", "--", directory], check=False).returncode:
            raise OSError(f"cannot delete {directory}") from None


def delete_leftovers(root: Path) -> None:
    """Finish removals that were cut short, and drop what was never finished. Raises OSError."""
    for name in os.listdir(root):
        path = root / name
        is_draft = name.startswith(_NEW) and path.stat().st_mtime < time.time() - _ABANDONED_S
        if is_draft or name.startswith(_GONE):
            delete_tree(path)


@contextmanager
def lock_directory(path: str, *, wait: bool) -> Iterator[bool]:
    """Lock it among all threads and processes; False when another one is there by then, or none.

    Raises BlockingIOError when it is locked and `wait` is false, and OSError.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            is_there = os.path.samestat(os.fstat(handle), os.stat(path))
        except FileNotFoundError:
            is_there = False
        yield is_there
    finally:
        os.close(handle)
