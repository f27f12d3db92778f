"""The real state.db, with a fuse around each durable transaction, and without waiting for the disk."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from reconciler.store.store import Store
from tests.fakes.fuse import Fuse


@cache
def _empty() -> bytes:
    """A state.db with nothing in it: making its tables takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.db")
        Store(path).close()
        return path.read_bytes()


class FusedStore(Store):
    """A blow before the commit keeps nothing, one after it keeps everything, as SQLite promises."""

    def __init__(self, path: Path, fuse: Fuse | None = None) -> None:
        self.fuse: Fuse | None = None
        self._depth = threading.local()
        if not path.exists():
            path.write_bytes(_empty())
        super().__init__(path)
        with self.read() as session:
            session.connection().exec_driver_sql("PRAGMA synchronous=OFF")
        self.fuse = fuse

    @contextmanager
    def transaction(self) -> Iterator[None]:
        depth = getattr(self._depth, "value", 0)
        self._depth.value = depth + 1
        try:
            with super().transaction():
                yield
                if not depth and self.fuse is not None:
                    self.fuse.visit("store.commit.before")
        finally:
            self._depth.value = depth
        if not depth and self.fuse is not None:
            self.fuse.visit("store.commit.after")
