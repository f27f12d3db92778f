"""Objects read from their own files, and by git where that is not enough."""

import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import SourceError
from reconciler.source.git import EmptyRepository, ObjectView
from reconciler.source.objects import MAX_BYTES, ObjectReader, read_loose, size_of_loose
from tests.source.repo import Repo, bytes_read, children, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"hub.yaml": "a: 1\n"})


@pytest.fixture
def reader(repo: Repo) -> Iterator[ObjectReader]:
    empty = EmptyRepository()
    reader = ObjectReader(ObjectView(git_dir=empty.path("sha1"), objects_dir=objects_of(repo)))
    yield reader
    reader.close()


def objects_of(repo: Repo) -> str:
    return str(repo.path / ".git/objects")


def file_of(repo: Repo, object_id: str) -> Path:
    return Path(objects_of(repo), object_id[:2], object_id[2:])


def pack(repo: Repo, *blobs: str) -> None:
    """Everything that a commit reaches, and these blobs, are only in a pack from now on."""
    for number, blob in enumerate(blobs):
        repo.git("tag", f"kept-{number}", blob)
    repo.git("gc", "--quiet", "--prune=now")


def test_loose_and_packed_objects_are_read_alike_in_the_order_asked(repo: Repo, reader: ObjectReader) -> None:
    first, second = repo.blob(b"first"), repo.blob(b"second" * 1000)
    pack(repo, first, second)
    third = repo.blob(b"third")
    ids = [third, second, first]
    assert list(reader.read(ids).items()) == [(third, b"third"), (second, b"second" * 1000), (first, b"first")]
    assert reader.sizes(ids) == {third: 5, second: 6000, first: 5}


def test_no_process_is_started_for_what_has_a_file_of_its_own(repo: Repo, reader: ObjectReader) -> None:
    commit, tree = repo.git("rev-parse", "HEAD"), repo.git("rev-parse", "HEAD^{tree}")
    blob, odd = repo.git("rev-parse", "HEAD:hub.yaml"), repo.blob(os.urandom(100_000))
    assert reader.read([commit], kind="commit")[commit].startswith(f"tree {tree}\n".encode())
    assert reader.read([tree], kind="tree")[tree] == b"100644 hub.yaml\0" + bytes.fromhex(blob)
    assert reader.find(commit, "commit") == reader.read([commit], kind="commit")[commit]
    assert len(reader.read([odd])[odd]) == 100_000
    assert reader.sizes([blob, odd]) == {blob: 5, odd: 100_000}
    assert children() == []


def test_the_objects_of_a_sha256_repository_are_checked_too(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "repo", "init", "--quiet", "--object-format=sha256")
    blob, other = repo.blob(b"good"), repo.blob(b"evil")
    assert read_loose(objects_of(repo), blob, "blob", MAX_BYTES) == b"good"
    file_of(repo, blob).unlink()
    shutil.copy(file_of(repo, other), file_of(repo, blob))
    assert read_loose(objects_of(repo), blob, "blob", MAX_BYTES) is None


def test_an_object_of_another_kind_is_an_error(repo: Repo, reader: ObjectReader) -> None:
    commit = repo.git("rev-parse", "HEAD")
    with pytest.raises(SourceError, match="is not a blob"):
        reader.read([commit])
    reader.close()
    with pytest.raises(SourceError, match="is not a blob"):
        reader.sizes([commit])


def test_a_missing_object_is_an_error_or_none_where_that_is_the_question(repo: Repo, reader: ObjectReader) -> None:
    missing = "1" * 40
    with pytest.raises(SourceError, match=f"object {missing} is missing"):
        reader.read([repo.git("rev-parse", "HEAD:hub.yaml"), missing])
    reader.close()
    assert reader.find(missing, "commit") is None


def test_what_is_too_large_is_refused_before_it_is_read(repo: Repo, reader: ObjectReader) -> None:
    small = repo.blob(b"\0" * MAX_BYTES)
    for big in (repo.blob(b"\0" * 50_000_000), repo.blob(os.urandom(2_000_000))):
        before = bytes_read()
        with pytest.raises(SourceError, match="more than 1048576"):
            reader.read([small, big])
        assert bytes_read() - before < 2**21
        reader.close()
    assert reader.read([small]) == {small: b"\0" * MAX_BYTES}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"not zlib",
        zlib.compress(b"blob 4\0evil"),
        zlib.compress(b"blob 5\0a: 1"),
        zlib.compress(b"blob x\0a: 1\n"),
        zlib.compress(b"blob 5\0a: 1\n")[:-6],
        zlib.compress(b"blob 5\0a: 1\n and more"),
    ],
)
def test_a_damaged_file_is_never_taken_for_the_object(repo: Repo, damage: bytes) -> None:
    blob = repo.git("rev-parse", "HEAD:hub.yaml")
    assert read_loose(objects_of(repo), blob, "blob", MAX_BYTES) == b"a: 1\n"
    file_of(repo, blob).chmod(0o644)
    file_of(repo, blob).write_bytes(damage)
    assert read_loose(objects_of(repo), blob, "blob", MAX_BYTES) is None


def test_what_is_no_plain_file_is_left_to_git(repo: Repo) -> None:
    blob = repo.git("rev-parse", "HEAD:hub.yaml")
    kept = repo.path / "kept"
    file_of(repo, blob).rename(kept)
    os.symlink(kept, file_of(repo, blob))
    assert read_loose(objects_of(repo), blob, "blob", MAX_BYTES) is None
    file_of(repo, blob).unlink()
    os.mkfifo(file_of(repo, blob))
    assert read_loose(objects_of(repo), blob, "blob", MAX_BYTES) is None
    assert size_of_loose(objects_of(repo), blob) is None


@pytest.mark.parametrize("wrong", ["", "../../hub.yaml", "HEAD", "/etc/passwd", "a" * 39, "A" * 40])
def test_only_a_full_id_is_looked_up(repo: Repo, wrong: str) -> None:
    assert read_loose(objects_of(repo), wrong, "blob", MAX_BYTES) is None
