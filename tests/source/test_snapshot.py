"""`GitSnapshot`: what is in the tree of a commit."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from reconciler.core.reading import Ok
from reconciler.errors import SourceError
from reconciler.ports import Entry
from reconciler.source.repository import LocalRepository
from reconciler.source.snapshot import GitSnapshot, is_link
from tests.source.repo import Repo, bytes_read, children, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"hub.yaml": "a: 1\n"})


@pytest.fixture
def source(repo: Repo) -> Iterator[LocalRepository]:
    source = LocalRepository(str(repo.path), "main")
    yield source
    source.close()


def open_head(source: LocalRepository) -> GitSnapshot:
    reading = source.snapshot("HEAD")
    assert isinstance(reading, Ok), reading
    return reading.value


def paths(snapshot: GitSnapshot, folder: str) -> list[str]:
    return [entry.path for entry in snapshot.entries(folder)]


def test_entries_are_those_at_or_below_a_folder_by_path(repo: Repo, source: LocalRepository) -> None:
    repo.commit({"a.d/z.yaml": "", "a.d/b/c.yaml": "", "a.dx/no.yaml": "", "a/no.yaml": ""})
    with open_head(source) as snapshot:
        assert paths(snapshot, "a.d") == ["a.d/b/c.yaml", "a.d/z.yaml"]
        assert paths(snapshot, "a.d/") == paths(snapshot, "a.d")
        assert paths(snapshot, "hub.yaml") == ["hub.yaml"]
        assert paths(snapshot, "none") == []
        assert len(paths(snapshot, "")) == 5


def test_folders_that_are_listed_in_one_go_are_what_they_are_one_by_one(repo: Repo, source: LocalRepository) -> None:
    names = ("a.d/z", "a.d/b/c", "a.dx/no", "a/no", "e", "a.d-", "a.d.x/y", "a.d0", "a.d/\U0010ffff", "e0")
    repo.commit(dict.fromkeys(names, ""))
    folders = ["a.d", "a.d/b", "hub.yaml", "none.d", "a.dx/", "e", "a.d0", ""]
    with open_head(source) as at_once, open_head(source) as one_by_one:
        at_once.prepare(folders[:-1])
        assert [paths(at_once, f) for f in folders] == [paths(one_by_one, f) for f in folders]
    with open_head(source) as whole:
        whole.prepare(folders)
        assert [paths(whole, f) for f in folders] == [paths(one_by_one, f) for f in folders]


def test_an_entry_has_the_size_the_mode_and_the_id_of_its_content(repo: Repo, source: LocalRepository) -> None:
    repo.write("run.sh", "12345")
    (repo.path / "run.sh").chmod(0o755)
    repo.commit()
    blob = repo.git("rev-parse", "HEAD:run.sh")
    with open_head(source) as snapshot:
        assert snapshot.entries("run.sh") == (Entry(path="run.sh", blob=blob, size_bytes=5, mode="100755"),)


def test_only_what_was_asked_for_is_read(repo: Repo, source: LocalRepository) -> None:
    repo.commit({"agents.d/a.yaml": "a", "agents.d/b.yaml": "b", "agents.d/same.yaml": "a"})
    with open_head(source) as snapshot:
        a, b, same = snapshot.entries("agents.d")
        assert snapshot.read([]) == {}
        assert snapshot.read([b]) == {"agents.d/b.yaml": b"b"}
        assert snapshot.read([same, a]) == {"agents.d/same.yaml": b"a", "agents.d/a.yaml": b"a"}


def test_a_large_file_is_an_entry_that_is_not_read(repo: Repo, source: LocalRepository) -> None:
    repo.commit({"agents.d/big.yaml": b"\0" * 50_000_000, "agents.d/limit.yaml": b"x" * 2**20})
    with open_head(source) as snapshot:
        big, limit = snapshot.entries("agents.d")
        assert big.size_bytes == 50_000_000 > snapshot.max_file_bytes
        before = bytes_read()
        with pytest.raises(SourceError, match="50000000 bytes, more than 1048576"):
            snapshot.read([limit, big])
        assert bytes_read() - before < 2**20
        assert len(snapshot.read([limit])["agents.d/limit.yaml"]) == 2**20


def test_links_are_entries_that_can_be_told_apart(repo: Repo, source: LocalRepository) -> None:
    os.makedirs(repo.path / "agents.d")
    os.symlink("/etc/passwd", repo.path / "agents.d/link.yaml")
    repo.write("agents.d/plain.yaml", "a")
    os.symlink("agents.d", repo.path / "other.d")
    repo.commit()
    with open_head(source) as snapshot:
        assert [(e.path, is_link(e)) for e in snapshot.entries("agents.d")] == [
            ("agents.d/link.yaml", True),
            ("agents.d/plain.yaml", False),
        ]
        # A folder that is a link is shown, and not followed.
        assert [(e.path, is_link(e)) for e in snapshot.entries("other.d")] == [("other.d", True)]
        link = snapshot.entries("agents.d")[0]
        assert snapshot.read([link]) == {"agents.d/link.yaml": b"/etc/passwd"}


def test_submodules_and_unfit_names_are_set_aside_with_a_reason(repo: Repo, source: LocalRepository) -> None:
    head, blob = repo.git("rev-parse", "HEAD"), repo.blob(b"a")
    folder = repo.hash_tree(
        f"160000 commit {head}\tmodule",
        f'100644 blob {blob}\t"latin-\\351.yaml"',
        f'100644 blob {blob}\t"two\\nlines.yaml"',
        f"100644 blob {blob}\tgood.yaml",
        f"100644 blob {blob}\tgrüß dich.yaml",
    )
    repo.commit_tree(repo.hash_tree(f"040000 tree {folder}\tagents.d"))
    with open_head(source) as snapshot:
        assert paths(snapshot, "agents.d") == ["agents.d/good.yaml", "agents.d/grüß dich.yaml"]
        assert {a.path: a.reason for a in snapshot.set_aside("agents.d")} == {
            "agents.d/module": "a submodule: its files are not part of this repository",
            "agents.d/latin-\\xe9.yaml": "its name is not UTF-8",
            "agents.d/two\\nlines.yaml": "its name has characters that don't print",
        }


@pytest.mark.parametrize("name", ["..", ".", ".git", ".GIT"])
def test_names_that_lead_elsewhere_are_set_aside_and_not_checked_out(
    repo: Repo, source: LocalRepository, tmp_path: Path, name: str
) -> None:
    tree = f"100644 {name}\0".encode() + bytes.fromhex(repo.blob(b"evil"))
    inner = repo.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=tree)
    repo.commit_tree(repo.hash_tree(f"040000 tree {inner}\tagents.d"))
    with open_head(source) as snapshot:
        assert paths(snapshot, "agents.d") == []
        assert snapshot.set_aside("agents.d")[0].reason == ("its name could lead out of the tree or into .git")
    with pytest.raises(SourceError, match=r"leaves the tree or is \.git"):
        source.checkout("main", str(tmp_path / "c"), history=False)
    assert sorted(os.listdir(tmp_path)) == ["repo"]


def test_a_tree_with_the_same_name_as_link_and_folder_writes_nothing_through_the_link(
    repo: Repo, source: LocalRepository, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    link = bytes.fromhex(repo.blob(str(tmp_path / "outside").encode()))
    folder = bytes.fromhex(repo.hash_tree(f"100644 blob {repo.blob(b'evil')}\tx"))
    tree = b"120000 a\0" + link + b"40000 a\0" + folder
    crafted = repo.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=tree)
    repo.commit_tree(crafted)
    with pytest.raises(SourceError, match="making the checkout"):
        source.checkout("main", str(tmp_path / "c"), history=False)
    assert os.listdir(tmp_path / "outside") == []


@pytest.mark.parametrize("folder", ["..", "a/../b", "/etc", "a//b", "."])
def test_a_folder_outside_of_the_tree_is_an_error(source: LocalRepository, folder: str) -> None:
    with open_head(source) as snapshot, pytest.raises(SourceError, match="not a path inside"):
        snapshot.entries(folder)


@pytest.mark.parametrize("folder", ["-r", ":(glob)**", "*.yaml", "--help"])
def test_a_folder_is_taken_literally(repo: Repo, source: LocalRepository, folder: str) -> None:
    repo.commit({f"{folder}/x": "1"})
    with open_head(source) as snapshot:
        assert paths(snapshot, folder) == [f"{folder}/x"]


def test_a_corrupt_file_is_an_error_that_says_so(repo: Repo, source: LocalRepository) -> None:
    blob = repo.git("rev-parse", "HEAD:hub.yaml")
    path = repo.path / ".git/objects" / blob[:2] / blob[2:]
    good = path.read_bytes()
    path.chmod(0o644)
    with open_head(source) as snapshot:
        entries = snapshot.entries("hub.yaml")
        path.write_bytes(good[:-6] + b"damage")
        with pytest.raises(SourceError, match=r"reading objects of .*: .*git fsck"):
            snapshot.read(entries)


def test_what_earlier_snapshots_learnt_makes_no_difference(repo: Repo, source: LocalRepository) -> None:
    inside = repo.path / "a.d"
    edits: list[Callable[[], object]] = [
        lambda: repo.write("a.d/x", "1"),
        lambda: repo.write("a.d/x", "22"),
        lambda: repo.write("a.d/y", "1"),
        lambda: (inside / "x").chmod(0o755),
        lambda: (inside / "x").rename(repo.path / "hub.yaml"),
        lambda: os.symlink("y", inside / "x"),
        lambda: repo.write("a.d/y", b"1" * (2**20 + 1)),
        lambda: (inside / "y").rename(repo.path / "a"),
    ]
    seen: list[Sequence[Entry]] = []
    for edit in edits:
        edit()
        repo.commit()
        alone = LocalRepository(str(repo.path), "main")
        with open_head(source) as snapshot, open_head(alone) as other:
            assert snapshot.entries("") == other.entries("")
            seen.append(snapshot.entries(""))
        alone.close()
    assert all(before != after for before, after in pairwise(seen))


def test_what_was_just_committed_is_read_without_a_process(repo: Repo, source: LocalRepository) -> None:
    repo.commit({"agents.d/a.yaml": "a"})
    with open_head(source) as snapshot:
        assert snapshot.read(snapshot.entries("")) == {"agents.d/a.yaml": b"a", "hub.yaml": b"a: 1\n"}
        assert children() == []


def test_a_repository_may_be_packed_at_any_time(repo: Repo, source: LocalRepository) -> None:
    with open_head(source) as snapshot:
        entries = snapshot.entries("")
        repo.git("gc", "--quiet", "--prune=now")
        assert snapshot.read(entries) == {"hub.yaml": b"a: 1\n"}
    repo.commit({"agents.d/a.yaml": "a"})
    with open_head(source) as snapshot:
        assert snapshot.read(snapshot.entries("")) == {"agents.d/a.yaml": b"a", "hub.yaml": b"a: 1\n"}


def test_a_closed_snapshot_leaves_no_process(repo: Repo, source: LocalRepository) -> None:
    repo.git("gc", "--quiet", "--prune=now")
    snapshot = open_head(source)
    snapshot.read(snapshot.entries(""))
    assert len(children()) == 1
    snapshot.close()
    snapshot.close()
    assert children() == []
    # It may be used again; then it has to be closed again.
    assert snapshot.read(snapshot.entries("hub.yaml")) == {"hub.yaml": b"a: 1\n"}
    snapshot.close()


def test_a_snapshot_that_nobody_closed_leaves_no_process_either(repo: Repo, source: LocalRepository) -> None:
    repo.git("gc", "--quiet", "--prune=now")
    snapshot = open_head(source)
    snapshot.read(snapshot.entries(""))
    assert len(children()) == 1
    del snapshot
    assert children() == []
