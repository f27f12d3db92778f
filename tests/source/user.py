"""Being somebody who is not root, for tests of permissions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ORDINARY_UID = 1000


def let_through(path: Path) -> None:
    """Let other users reach `path`, which pytest keeps to its own."""
    for directory in [path, *path.parents][:-2]:
        os.chmod(directory, os.stat(directory).st_mode | 0o055)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root becomes uid 1000 for the block; anybody else stays what he is."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(ORDINARY_UID)
    try:
        yield
    finally:
        os.seteuid(0)
