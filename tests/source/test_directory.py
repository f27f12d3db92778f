"""`DirectorySource`: a plain directory, for trying things out."""

import os
import time
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.errors import SourceError
from reconciler.ports import Revision
from reconciler.source.directory import DirectorySource, MemorySnapshot
from reconciler.source.snapshot import MAX_FILE_BYTES
from tests.source.repo import bytes_read
from tests.source.user import let_through, ordinary_user


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "agents.d/deep").mkdir(parents=True)
    (root / "hub.yaml").write_text("a: 1\n")
    (root / "agents.d/a.yaml").write_text("a\n")
    (root / "agents.d/deep/b.yaml").write_text("b\n")
    (root / "other").mkdir()
    (root / "other/run.sh").write_text("#!/bin/sh\n")
    (root / "other/run.sh").chmod(0o755)
    return root


def head(source: DirectorySource) -> Revision:
    reading = source.head()
    assert isinstance(reading, Ok), reading
    return reading.value


def snapshot(source: DirectorySource) -> MemorySnapshot:
    reading = source.snapshot(head(source).id)
    assert isinstance(reading, Ok)
    return reading.value


def test_the_revision_is_a_digest_of_the_manifests_and_is_not_audited(root: Path) -> None:
    source = DirectorySource(str(root))
    first = head(source)
    assert first.id.startswith("worktree:")
    assert not first.audited
    assert head(source) == first == head(DirectorySource(str(root)))
    (root / "other/run.sh").write_text("changed")
    os.utime(root / "hub.yaml", (1, 1))
    assert head(source) == first
    (root / "agents.d/a.yaml").write_text("A\n")
    assert head(source) != first
    (root / "agents.d/a.yaml").write_text("a\n")
    assert head(source) == first
    (root / "agents.d/a.yaml").chmod(0o755)
    assert head(source) != first


def test_a_snapshot_stays_what_it_was_when_files_change(root: Path) -> None:
    source = DirectorySource(str(root))
    taken = snapshot(source)
    (root / "hub.yaml").write_text("changed")
    assert head(source) != taken.revision
    assert taken.read(taken.entries("hub.yaml")) == {"hub.yaml": b"a: 1\n"}
    assert source.snapshot(taken.revision.id) == Absent()


def test_entries_are_those_at_or_below_a_folder_by_path(root: Path) -> None:
    (root / "agents.dx").mkdir()
    taken = snapshot(DirectorySource(str(root)))
    assert [e.path for e in taken.entries("agents.d")] == ["agents.d/a.yaml", "agents.d/deep/b.yaml"]
    assert [e.path for e in taken.entries("")] == [
        "agents.d/a.yaml",
        "agents.d/deep/b.yaml",
        "hub.yaml",
    ]
    assert taken.read(taken.entries("agents.d")) == {
        "agents.d/a.yaml": b"a\n",
        "agents.d/deep/b.yaml": b"b\n",
    }
    with pytest.raises(SourceError, match="not a path inside"):
        taken.entries("../x")


def test_the_paths_that_count_can_be_named(root: Path) -> None:
    taken = snapshot(DirectorySource(str(root), ["hub.yaml", "agents.d/deep", "none/at/all"]))
    assert [e.path for e in taken.entries("")] == ["agents.d/deep/b.yaml", "hub.yaml"]


def test_links_are_shown_and_never_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.yaml").write_text("hidden content")
    (root / "agents.d/file.yaml").symlink_to(tmp_path / "outside/secret.yaml")
    (root / "agents.d/folder").symlink_to(tmp_path / "outside")
    (root / "policies").symlink_to(tmp_path / "outside")
    (root / "conf").symlink_to(tmp_path)
    source = DirectorySource(str(root), ["agents.d", "policies", "conf/outside"])
    links = [e for e in snapshot(source).entries("") if e.mode == "120000"]
    assert [e.path for e in links] == ["agents.d/file.yaml", "agents.d/folder", "conf", "policies"]
    contents = snapshot(source).read(snapshot(source).entries(""))
    assert b"hidden content" not in contents.values()


def test_a_root_that_is_a_link_is_followed_because_the_operator_named_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(root)
    assert head(DirectorySource(str(tmp_path / "current"))).id == head(DirectorySource(str(root))).id


def test_a_large_file_is_an_entry_that_is_not_read(root: Path) -> None:
    with (root / "agents.d/big.yaml").open("wb") as big:
        big.truncate(100_000_000)
    before = bytes_read()
    taken = snapshot(DirectorySource(str(root)))
    [entry] = taken.entries("agents.d/big.yaml")
    assert entry.size_bytes == 100_000_000 > taken.max_file_bytes == MAX_FILE_BYTES
    with pytest.raises(SourceError, match="more than 1048576"):
        taken.read([entry])
    assert bytes_read() - before < 2**21


def test_what_is_no_file_or_has_an_unfit_name_is_set_aside(root: Path) -> None:
    os.mkfifo(root / "agents.d/pipe.yaml")
    (root / "agents.d/two\nlines.yaml").write_text("x")
    (Path(os.fsdecode(os.fsencode(root) + b"/agents.d/\xe9.yaml"))).write_text("x")
    (root / "agents.d/.hidden.yaml").write_text("x")
    taken = snapshot(DirectorySource(str(root)))
    assert len(taken.entries("agents.d")) == 2
    assert [a.reason for a in taken.set_aside("agents.d")] == [
        "neither a file nor a folder",
        "its name has characters that don't print",
        "its name is not UTF-8",
    ]


def test_a_directory_that_is_not_there_is_unavailable(root: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "gone", root / "hub.yaml"):
        reading = DirectorySource(str(path)).head()
        assert isinstance(reading, Unavailable)
        assert reading.reason.startswith(f"SourceUnavailable: {path} cannot be read: ")


def test_an_unreadable_file_makes_all_of_it_unavailable(root: Path) -> None:
    (root / "agents.d/a.yaml").chmod(0)
    let_through(root)
    with ordinary_user():
        reading = DirectorySource(str(root)).head()
    assert isinstance(reading, Unavailable)
    assert "Permission denied" in reading.reason


def test_an_unchanged_file_is_not_read_again_and_a_changed_one_is(root: Path) -> None:
    """With the same size and times, a file of before the last moments is taken for the same."""
    source = DirectorySource(str(root))
    path = root / "agents.d/a.yaml"
    first = head(source)
    path.write_text("A\n")
    assert head(source) != first
    many = root / "agents.d/many"
    many.mkdir()
    for number in range(1000):
        (many / f"{number}.yaml").write_text(f"{number}\n" * 100)
        os.utime(many / f"{number}.yaml", (1, 1))
    head(source)
    deadline, cost = time.monotonic() + 60, 1_000_000
    while cost > 10_000 and time.monotonic() < deadline:
        before = bytes_read()
        head(source)
        cost = bytes_read() - before
    assert cost <= 10_000


def test_states_of_a_directory_follow_each_other_and_nothing_else(root: Path) -> None:
    source = DirectorySource(str(root))
    assert source.is_ancestor("worktree:1", "worktree:2")
    assert not source.is_ancestor("1" * 40, "worktree:2")


def test_a_checkout_is_a_read_only_copy_without_what_is_ours(root: Path, tmp_path: Path) -> None:
    (root / ".git").mkdir()
    (root / ".git/config").write_text("secret")
    (root / "other/link").symlink_to("run.sh")
    (root / "other/out").symlink_to("/etc/passwd")
    os.mkfifo(root / "other/pipe")
    (root / "folder").symlink_to("other")
    source = DirectorySource(str(root))
    target = root / "data/workspaces/c"
    source.checkout(head(source).id, str(target), history=True)
    source.checkout(head(source).id, str(target), history=True)
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*")) == [
        "agents.d",
        "agents.d/a.yaml",
        "agents.d/deep",
        "agents.d/deep/b.yaml",
        "folder",
        "hub.yaml",
        "other",
        "other/link",
        "other/out",
        "other/run.sh",
    ]
    assert (target / "other/run.sh").stat().st_mode & 0o777 == 0o555
    assert (target / "other/out").read_text().startswith("symbolic link to /etc/passwd\n")
    assert os.readlink(target / "folder") == "other"
    with pytest.raises(SourceError, match="no longer what"):
        source.checkout("worktree:gone", str(tmp_path / "d"), history=False)


def test_every_folder_of_manifests_is_watched(root: Path, tmp_path: Path) -> None:
    source = DirectorySource(str(root))
    assert source.watch_paths() == [str(root), f"{root}/agents.d", f"{root}/agents.d/deep"]
    assert DirectorySource(str(tmp_path / "gone")).watch_paths() == []
