"""A `Source` that a test writes: trees in memory, one commit after the other."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import SourceError
from reconciler.ports import Entry, Revision
from reconciler.source.directory import MemorySnapshot

_START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeSource:
    """`commit` adds a revision to one straight history; `fail` makes everything unavailable."""

    def __init__(self) -> None:
        self._tree_by_id: dict[str, dict[str, bytes]] = {}
        self._failure: str | None = None

    def commit(self, files: Mapping[str, bytes | None]) -> str:
        """The last tree with these files changed (None: removed); returns the id."""
        tree = dict(next(reversed(self._tree_by_id.values()), {}))
        for path, content in files.items():
            if content is None:
                del tree[path]
            else:
                tree[path] = content
        commit = hashlib.sha1(repr((len(self._tree_by_id), tree)).encode()).hexdigest()
        self._tree_by_id[commit] = tree
        return commit

    def fail(self, reason: str | None) -> None:
        """None mends it. Say `SourceUnsettled: …` or `SourceUnavailable: …`, as the real ones do."""
        self._failure = reason

    def head(self) -> Reading[Revision]:
        if self._failure:
            return Unavailable(reason=self._failure)
        if not self._tree_by_id:
            return Unavailable(reason="SourceUnavailable: no commit yet")
        return Ok(self._revision(next(reversed(self._tree_by_id))))

    def snapshot(self, revision: str) -> Reading[MemorySnapshot]:
        if self._failure:
            return Unavailable(reason=self._failure)
        if revision not in self._tree_by_id:
            return Absent()
        tree = self._tree_by_id[revision]
        entries = [
            Entry(path=path, blob=hashlib.sha1(content).hexdigest(), size_bytes=len(content))
            for path, content in tree.items()
        ]
        return Ok(MemorySnapshot(self._revision(revision), entries, tree))

    def is_ancestor(self, older: str, newer: str) -> bool:
        order = list(self._tree_by_id)
        if newer not in order:
            raise SourceError(f"comparing with {newer}: there is no such commit")
        return older in order and order.index(older) <= order.index(newer)

    def checkout(self, revision: str, target: str, *, history: bool) -> None:
        if revision not in self._tree_by_id:
            raise SourceError(f"making the checkout {target}: there is no commit {revision}")
        if os.path.exists(target):
            return
        for path, content in self._tree_by_id[revision].items():
            at = os.path.join(target, path)
            os.makedirs(os.path.dirname(at), exist_ok=True)
            with open(at, "xb") as out:
                out.write(content)
            os.chmod(at, 0o444)

    def watch_paths(self) -> Sequence[str]:
        return ()

    def close(self) -> None:
        pass

    def _revision(self, commit: str) -> Revision:
        number = list(self._tree_by_id).index(commit)
        return Revision(
            id=commit,
            author="Fake <fake@example.org>",
            subject=f"Change {number}",
            time=_START + timedelta(minutes=number),
        )
