"""A fleet that is one directory of a repository; what each source keeps to is in `tests/contract/test_source.py`."""

from pathlib import Path

from reconciler.core.reading import Ok, Unavailable
from reconciler.ports import Snapshot
from reconciler.source.repository import LocalRepository
from reconciler.source.subdirectory import Subdirectory
from tests.source.repo import Repo, make_repo


def taken_of(repo: Repo, path: str) -> Snapshot | Unavailable:
    source = Subdirectory(LocalRepository(str(repo.path), "main"), path)
    found = source.snapshot(repo.git("rev-parse", "HEAD"))
    assert isinstance(found, Ok | Unavailable)
    return found.value if isinstance(found, Ok) else found


def test_a_directory_that_is_not_there_is_no_empty_fleet(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"fleets/a/hub.yaml": "a: 1\n"})
    repo.git("mv", "fleets/a", "fleets/b")
    repo.commit()
    found = taken_of(repo, "fleets/a")
    assert isinstance(found, Unavailable)
    assert "there is no fleets/a/hub.yaml at " in found.reason


def test_neither_neighbours_nor_what_is_above_are_seen(tmp_path: Path) -> None:
    repo = make_repo(
        tmp_path / "repo", {"hub.yaml": "x", "a/hub.yaml": "a", "ab/hub.yaml": "ab", "a/tasks.d/t\n.yaml": "t"}
    )
    found = taken_of(repo, "a")
    assert not isinstance(found, Unavailable)
    found.prepare(["hub.yaml", "tasks.d"])
    assert [e.path for e in found.entries("")] == ["hub.yaml"]
    assert [a.path for a in found.set_aside("tasks.d")] == ["tasks.d/t\\n.yaml"]
    assert found.read(found.entries("hub.yaml")) == {"hub.yaml": b"a"}
    found.close()
