"""Reading one dropped file: hostile ones, and nothing is waited for."""

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.source.dropped import Candidate, NotNow, Refused, read_dropped
from tests.source.repo import bytes_read
from tests.source.user import let_through, ordinary_user


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def read(folder: int, *, mind_writers: bool = True) -> Candidate | Refused | NotNow:
    return read_dropped(folder, "x.yaml", max_bytes=2**20, mind_writers=mind_writers)


def reason(folder: int) -> str:
    found = read(folder)
    assert isinstance(found, Refused), found
    return found.reason


def test_an_empty_file_and_one_of_the_largest_size_are_taken(folder: int, tmp_path: Path) -> None:
    for size in (0, 2**20):
        (tmp_path / "x.yaml").write_bytes(b"x" * size)
        found = read(folder)
        assert isinstance(found, Candidate)
        assert len(found.content) == size


def test_one_byte_too_many_is_refused(folder: int, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"x" * (2**20 + 1))
    assert reason(folder) == "it has 1048577 bytes; at most 1048576 are taken; drop a smaller one"


def test_a_hundred_megabytes_are_not_read(folder: int, tmp_path: Path) -> None:
    with (tmp_path / "x.yaml").open("wb") as big:
        big.truncate(100_000_000)
    before = bytes_read()
    assert reason(folder) == "it has 100000000 bytes; at most 1048576 are taken; drop a smaller one"
    assert bytes_read() - before < 2**20


def test_a_file_that_is_gone_is_neither_taken_nor_refused(folder: int) -> None:
    assert read(folder) is NotNow.GONE


def test_a_fifo_a_link_and_a_directory_are_refused_without_waiting(folder: int, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    os.mkfifo(path)
    assert reason(folder) == "it is a FIFO; drop a regular file"
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert reason(folder) == "it is a symbolic link; drop a regular file"
    path.unlink()
    path.mkdir()
    assert reason(folder) == "it is a directory; drop a regular file"


def test_a_device_is_refused_without_being_opened(folder: int, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a device")
    for kind, device in ((stat.S_IFCHR, os.makedev(1, 5)), (stat.S_IFBLK, os.makedev(240, 240))):
        os.mknod(tmp_path / "x.yaml", kind | 0o666, device)
        assert reason(folder) == "it is a device; drop a regular file"
        (tmp_path / "x.yaml").unlink()


def test_a_second_name_is_refused_because_the_owner_says_nothing_then(folder: int, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("a")
    os.link(tmp_path / "mine", tmp_path / "x.yaml")
    assert reason(folder) == "it has a second name (a hard link); drop a copy"


def test_a_file_that_the_hub_may_not_read_is_refused(folder: int, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a")
    (tmp_path / "x.yaml").chmod(0)
    let_through(tmp_path)
    with ordinary_user():
        assert reason(folder) == "the hub may not read it; give it read permission"


def test_a_file_open_for_writing_is_not_taken_unless_told_so(folder: int, tmp_path: Path) -> None:
    with (tmp_path / "x.yaml").open("w") as out:
        out.write("half")
        out.flush()
        assert read(folder) is NotNow.BEING_WRITTEN
        found = read(folder, mind_writers=False)
        assert isinstance(found, Candidate)
        assert found.content == b"half"
    assert isinstance(read(folder), Candidate)


def test_readers_do_not_count_as_writers(folder: int, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a")
    with (tmp_path / "x.yaml").open():
        assert isinstance(read(folder), Candidate)


def test_a_file_of_somebody_else_is_taken_where_leases_are_not_ours_to_have(folder: int, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has files of somebody else")
    (tmp_path / "x.yaml").write_text("a")
    (tmp_path / "x.yaml").chmod(0o644)
    let_through(tmp_path)
    with ordinary_user():
        assert isinstance(read(folder), Candidate)


def test_writers_that_come_meanwhile_do_no_harm(folder: int, tmp_path: Path) -> None:
    """The signal of a broken lease must not end the process, and nothing torn may be read."""
    path, over = tmp_path / "x.yaml", threading.Event()
    path.write_bytes(b"a" * 50_000)

    def disturb() -> None:
        while not over.is_set():
            for letter in (b"a", b"b"):
                with path.open("r+b") as out:
                    out.write(letter * 50_000)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            found = read(folder)
            if isinstance(found, Candidate):
                assert len(set(found.content)) == 1
    finally:
        over.set()
        thread.join()
