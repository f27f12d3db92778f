"""A consistent copy of a SQLite file that others are writing: whole or not at all, and for its owner only."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote


def copy_database(path: Path, target: Path) -> None:
    """Copy the last committed state of `path` to `target`, durable. Raises sqlite3.Error, OSError."""
    draft = target.with_name(f".{target.name}.new")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)) as source,
            closing(sqlite3.connect(draft)) as copy,
        ):
            source.backup(copy)
        os.fsync(descriptor)
        draft.rename(target)
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
