"""The message log: durable before delivery, retention, payload modes, and a full disk."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.router.client import RouterLink
from reconciler.router.log import TrafficLog
from reconciler.router.traffic import InboxEntry, Row, TrafficDatabase
from reconciler.router.writer import start_writer
from reconciler.runtime.pid import read_process
from tests.router.fleet import FLEET, Fleet, basic_config, until


def row(n: int = 0, **fields: object) -> Row:
    return Row(
        **{"time": time.time(), "instance": "writer-0", "agent": "writer", "verdict": "allow", "size": n, **fields}
    )  # type: ignore[arg-type]


def open_log(folder: Path, on_lost: Callable[[], None] = lambda: None) -> TrafficLog:
    return TrafficLog(start_writer(folder), asyncio.get_running_loop(), lambda: None, on_lost)


def sizes(folder: Path, table: str = "message_log", column: str = "size") -> list[int]:
    with contextlib.closing(sqlite3.connect(folder / "traffic.db")) as connection:
        return [n for (n,) in connection.execute(f"SELECT {column} FROM {table} ORDER BY seq")]


def test_all_that_is_recorded_is_there_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = open_log(tmp_path)
        try:
            assert all(await asyncio.gather(*(log.record(row(n)) for n in range(1000))))
            assert sizes(tmp_path) == list(range(1000))
        finally:
            log.close()

    asyncio.run(scenario())


def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = open_log(tmp_path)
        for n in range(700):
            log.note(row(n))
        log.count("writer-0", "writer", "unauthenticated", "identity")
        log.close()

    asyncio.run(scenario())
    assert len(sizes(tmp_path)) == 701


def test_an_inbox_entry_comes_with_its_row_or_not_at_all_and_only_once(tmp_path: Path) -> None:
    entry = InboxEntry(time=1.0, instance="writer-0", agent="writer", type="task.started", msg_id="m", body="{}")

    async def scenario() -> None:
        log = open_log(tmp_path)
        try:
            await log.record(row(1), entry)
            assert log.inbox_seq == 1
            await log.record(row(2), entry)
            assert log.inbox_seq == 1
        finally:
            log.close()

    asyncio.run(scenario())
    assert sizes(tmp_path) == [1, 2]
    assert sizes(tmp_path, "hub_inbox", "seq") == [1]


def test_old_rows_go_and_inbox_entries_only_when_they_were_taken_in(tmp_path: Path) -> None:
    old = time.time() - 100
    database = TrafficDatabase(tmp_path / "traffic.db")
    for n in range(4):
        entry = InboxEntry(time=old, instance="i", agent="a", type="t", msg_id=str(n), body="{}")
        database.commit([row(n, time=old)], [entry])
    database.commit([row(9)], [])
    assert database.delete_log(time.time() - 50)
    assert not database.delete_log(time.time() - 50)
    database.delete_inbox(time.time() - 50, 2)
    database.close()
    assert sizes(tmp_path) == [9]
    assert sizes(tmp_path, "hub_inbox", "seq") == [3, 4]


def test_what_was_accepted_survives_a_kill_of_the_router(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    bodies = [writer.envelope("review.note", to="reviewer", payload=n) for n in range(20)]
    accepted: list[object] = []

    def send() -> None:
        for body in bodies:
            with contextlib.suppress(OSError):
                if writer.call("POST", "/api/hub/messages", body).status == 202:
                    accepted.append(body["id"])

    thread = threading.Thread(target=send)
    thread.start()
    delivered = [m["id"] for m in reviewer.receive()]
    os.kill(fleet.report().pid, signal.SIGKILL)
    thread.join()
    logged = {r["msg_id"] for r in fleet.rows("verdict='allow'")}
    assert delivered
    assert set(delivered) | set(accepted) <= logged


@pytest.mark.parametrize(
    ("mode", "kept", "hashed"), [("keep", True, False), ("hash", False, True), ("drop", False, False)]
)
def test_payloads_are_kept_hashed_or_dropped(fleet: Fleet, mode: str, kept: bool, hashed: bool) -> None:
    fleet.configure(log={"payload": "keep", "per_type": {"review.note": mode}})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    writer.send("review.note", to="reviewer", payload={"a": 1})
    (found,) = fleet.rows("type='review.note'")
    assert (found["payload"] == '{"a": 1}', found["payload_sha256"] is not None) == (kept, hashed)


def test_each_row_says_when_it_was_decided_and_a_remembered_answer_when_it_was_given(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    for _ in range(2):
        assert writer.send("review.note", to="reviewer").status == 202
        assert writer.send("review.note", to="nobody").code == "unknown_or_forbidden_recipient"
    writer.send("Review Note", to="reviewer")
    writer.call("POST", "/api/hub/messages", {}, token="wrong")
    until(lambda: bool(fleet.rows("code='unauthenticated'")))
    assert fleet.rows("decided_at IS NULL") == []
    for where in ("type='review.note' AND verdict='allow'", "code='unknown_or_forbidden_recipient'"):
        first, again = fleet.rows(where)
        assert again["cached"] == 1
        assert again["decided_at"] <= first["decided_at"] + 0.5 < again["time"] + 0.5
        assert again["decided_at"] < again["time"]
    (malformed,) = fleet.rows("code='invalid_envelope' AND size IS NOT NULL")
    assert malformed["decided_at"] == malformed["time"]


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="rrdisk", dir="/tmp"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(b"x" * 65536):
            pass
    return ballast


def test_a_full_disk_costs_the_reserve_first_and_then_routing(run_folder: Path, tiny_disk: Path) -> None:
    link = RouterLink(FLEET, run_folder, tiny_disk)
    link.start()
    try:
        fleet = Fleet(run=run_folder, data=tiny_disk, link=link, config=basic_config())
        fleet.configure(limits={"mailbox_messages": 10_000})
        writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
        assert fleet.state()["modes"] == []
        ballast = fill(tiny_disk)

        def send() -> int:
            return writer.send("review.note", to="reviewer", payload="x" * 200_000).status

        assert send() == 202
        until(lambda: fleet.state()["modes"] == ["log_reserve"] or send() == 503)
        assert not (tiny_disk / "traffic.reserve").exists()
        until(lambda: send() == 503)
        refused = writer.send("review.note", to="reviewer", payload="x" * 200_000)
        assert (refused.code, refused.headers["Retry-After"]) == ("log_unavailable", "2")
        assert "router" in link.wait_hint(0)
        assert fleet.report().log_unavailable
        delivered = 0
        while messages := reviewer.receive(wait_s=0):
            delivered += len(messages)
        assert delivered == len(fleet.rows("type='review.note' AND verdict='allow'"))

        ballast.unlink()
        assert send() == 202
        assert not fleet.report().log_unavailable
        until(lambda: fleet.state()["modes"] == [])
        assert (tiny_disk / "traffic.reserve").exists()
    finally:
        link.stop()


def only_child(pid: int) -> int:
    """The writer; a router without an embedded engine has no other child."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def test_the_router_ends_with_its_writer_and_says_why(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    pid = fleet.report().pid
    os.kill(only_child(pid), signal.SIGKILL)
    until(lambda: read_process(pid) is None)
    log = (fleet.data / "log" / "router.log").read_text()
    assert "the writer of the message log is gone, and the router ends: it was ended by signal 9" in log
    assert "Traceback" not in log
    assert "cannot" not in log
    assert not list(fleet.run.rglob("*.sock"))
    again = start_fleet()
    writer = again.register("writer-0")
    again.register("reviewer-0")
    assert writer.send("review.note", to="reviewer").status == 202


def test_the_writer_ends_with_its_router_and_not_by_a_signal(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    pid = fleet.report().pid
    scribe = only_child(pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(scribe, number)
    assert fleet.register("writer-0").hello().status == 200
    os.kill(pid, signal.SIGKILL)
    until(lambda: read_process(scribe) is None)
    assert not (fleet.data / "traffic.db-wal").exists(), "the writer did not close its database"


@pytest.mark.parametrize(("point", "rows"), [("router.record.before", 0), ("router.record.after", 1)])
def test_a_kill_inside_the_commit_is_told_to_who_waits(tmp_path: Path, point: str, rows: int) -> None:
    code = f"""
import asyncio, pathlib, sys
from tests.router.test_log import open_log, row
async def scenario():
    lost = []
    log = open_log(pathlib.Path({str(tmp_path)!r}), lambda: lost.append(True))
    recorded = await asyncio.wait_for(log.record(row(1)), 10)
    later = await asyncio.wait_for(log.record(row(2)), 10)
    log.close()
    print(recorded, later, lost, log.is_unavailable)
asyncio.run(scenario())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RECONCILER_CRASH_AT": point},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split("\n")[0] == "False False [True] True"
    assert "signal 9" in done.stderr
    assert sizes(tmp_path) == [1] * rows


def test_what_cannot_be_written_down_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def scenario() -> list[bool]:
        log = open_log(tmp_path)
        try:
            unreadable = await log.record(row(1, reason="\ud800"))
            too_large = await log.record(row(2, sender_seq=2**63))
            return [unreadable, too_large, await log.record(row(3))]
        finally:
            log.close()

    assert asyncio.run(scenario()) == [False, False, True]
    assert sizes(tmp_path) == [3]


def test_large_rows_go_in_batches_of_bounded_size(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = open_log(tmp_path)
        try:
            assert all(await asyncio.gather(*(log.record(row(3 * 2**20, payload="x" * 3 * 2**20)) for _ in range(6))))
        finally:
            log.close()

    asyncio.run(scenario())
    assert sizes(tmp_path) == [3 * 2**20] * 6


def test_the_write_ahead_log_stays_small_while_rows_come_without_a_pause(tmp_path: Path) -> None:
    total = 0

    async def scenario() -> None:
        nonlocal total
        log = open_log(tmp_path)
        try:
            while total < 100 * 2**20:
                assert all(await asyncio.gather(*(log.record(row(0, payload="x" * 2**16)) for _ in range(32))))
                total += 32 * 2**16
        finally:
            wal = (tmp_path / "traffic.db-wal").stat().st_size
            log.close()
            assert wal < 48 * 2**20

    asyncio.run(scenario())
    assert len(sizes(tmp_path)) == total // 2**16


def test_old_rows_are_deleted_while_the_log_is_open(tmp_path: Path) -> None:
    database = TrafficDatabase(tmp_path / "traffic.db")
    old = time.time() - 1000
    entry = InboxEntry(time=old, instance="i", agent="a", type="t", msg_id="1", body="{}")
    database.commit([row(n, time=old) for n in range(2500)], [entry])
    database.close()

    async def scenario() -> None:
        log = open_log(tmp_path)
        try:
            log.retention_s, log.inbox_kept_s, log.inbox_cursor = 500.0, 500.0, 1
            log.flush_counts()
            await log.record(row(7))
            until(lambda: sizes(tmp_path) == [7])
        finally:
            log.close()

    asyncio.run(scenario())
    assert sizes(tmp_path, "hub_inbox", "seq") == []
