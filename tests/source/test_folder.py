"""Folders that other people write into."""

import os
from pathlib import Path

import pytest

from reconciler.source.folder import open_below, remove_partial, status_of, write_whole


def test_no_part_of_the_way_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    with open_below(str(tmp_path), ["real", "inner"]) as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "real/inner"))
    with pytest.raises(OSError), open_below(str(tmp_path), ["link", "inner"]):  # noqa: PT011
        pass
    with pytest.raises(OSError), open_below(str(tmp_path), ["link", "new"], make=True):  # noqa: PT011
        pass
    assert os.listdir(tmp_path / "real") == ["inner"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with open_below(str(tmp_path), []) as fd:
        write_whole(fd, "a", b"old", like=None)
        write_whole(fd, "a", b"new", like=status_of(fd, "a"))
        os.mkdir(tmp_path / "b")
        with pytest.raises(IsADirectoryError):
            write_whole(fd, "b", b"x", like=None)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_only_leftovers_of_our_own_are_removed(tmp_path: Path) -> None:
    for name in (".a.0123.partial", "b.partial", ".c", "d"):
        (tmp_path / name).write_text("")
    with open_below(str(tmp_path), []) as fd:
        remove_partial(fd)
    assert sorted(os.listdir(tmp_path)) == [".c", "b.partial", "d"]
