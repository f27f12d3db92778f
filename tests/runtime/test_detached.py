"""Logs of servers that outlive the hub: bounded also while the server has them open, and one older is kept."""

import os
import signal
import sys
from pathlib import Path

import pytest

from reconciler.runtime.detached import MAX_LOG_BYTES, bound_logs, spawn_detached
from tests.router.fleet import until


def test_a_log_that_has_grown_too_large_is_put_aside_and_only_one_older_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "opa.log"
    with open(log, "ab", buffering=0) as writer:
        for n in range(5):
            writer.write(b"%d" % n * 60)
            bound_logs(tmp_path, max_bytes=100)
        assert log.read_bytes() == b"4" * 60
        assert (tmp_path / "opa.log.1").read_bytes() == b"2" * 60 + b"3" * 60
    assert sorted(p.name for p in tmp_path.iterdir()) == ["opa.log", "opa.log.1"]
    assert (tmp_path / "opa.log.1").stat().st_mode & 0o077 == 0


def test_what_is_no_log_and_what_is_small_is_left_alone(tmp_path: Path) -> None:
    for name in ("opa-decisions.jsonl", "small.log"):
        (tmp_path / name).write_bytes(b"x" * 50)
    (tmp_path / "opa-decisions.jsonl").write_bytes(b"x" * 500)
    bound_logs(tmp_path, max_bytes=100)
    bound_logs(tmp_path / "nowhere", max_bytes=100)
    assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == {"opa-decisions.jsonl": 500, "small.log": 50}


def test_a_log_that_cannot_be_put_aside_is_bounded_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "opa.log").write_bytes(b"x" * 500)
    (tmp_path / "opa.log.1").mkdir()
    bound_logs(tmp_path, max_bytes=100)
    assert (tmp_path / "opa.log").stat().st_size == 0


def test_a_link_in_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * 500)
    (tmp_path / "opa.log").symlink_to(precious)
    (tmp_path / "opa.log.1").symlink_to(precious)
    bound_logs(tmp_path, max_bytes=100)
    assert precious.stat().st_size == 500


@pytest.fixture
def said(tmp_path: Path) -> list[str]:
    return [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"]


def test_a_server_starts_with_a_small_log(tmp_path: Path, said: list[str]) -> None:
    log = tmp_path / "router.log"
    log.write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    pid = spawn_detached(sys.executable, said, {}, str(log))
    try:
        until(lambda: log.read_text() == "begun\n")
        assert (tmp_path / "router.log.1").stat().st_size == MAX_LOG_BYTES + 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
