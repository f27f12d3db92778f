"""Directories that instances leave are deleted, whatever is in them."""

import os
from pathlib import Path

from reconciler.runtime.process_record import Record
from reconciler.runtime.process_tree import (
    delete_leftovers,
    delete_tree,
    lock_directory,
    make_container,
    put_aside,
)

from .process_world import make_spec

RECORD = Record(id="writer-0@1", fleet="feedbeef", uid=None, spec=make_spec())


def test_a_container_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    assert make_container(tmp_path, RECORD)
    assert not make_container(tmp_path, RECORD)
    assert os.listdir(tmp_path) == ["writer-0"]
    assert sorted(os.listdir(tmp_path / "writer-0")) == ["home", "spec.json", "tmp"]


def test_directories_without_write_permission_are_deleted(tmp_path: Path) -> None:
    inner = tmp_path / "tree" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    for directory in (inner, inner.parent, inner.parent.parent):
        directory.chmod(0)
    delete_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_directories_deeper_than_python_can_go_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path / "tree")
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(before)
        os.close(before)
    delete_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_links_are_deleted_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(outside)
    delete_tree(tmp_path / "tree")
    delete_tree(tmp_path / "tree")
    assert (outside / "file").exists()


def test_leftovers_of_a_removal_are_deleted_and_drafts_in_use_are_not(tmp_path: Path) -> None:
    make_container(tmp_path, RECORD)
    put_aside(tmp_path, "writer-0")
    (tmp_path / ".new-young").mkdir()
    (tmp_path / ".new-old").mkdir()
    os.utime(tmp_path / ".new-old", (0, 0))
    delete_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [".new-young"]


def test_a_lock_on_a_directory_that_was_replaced_meanwhile_is_none(tmp_path: Path) -> None:
    make_container(tmp_path, RECORD)
    path = str(tmp_path / "writer-0")
    with lock_directory(path, wait=True) as is_there:
        assert is_there
    with lock_directory(f"{path}x", wait=True) as is_there:
        assert not is_there
