"""The process: how it ends, starts again, and what it must not load."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.reading import Absent
from reconciler.router.channel import call
from reconciler.runtime.detached import MAX_LOG_BYTES
from reconciler.runtime.pid import read_process
from tests.router.fleet import Fleet, Reply, until

FORBIDDEN = (
    "sqlmodel",
    "sqlalchemy",
    "docker",
    "pydantic",
    "git",
    "starlette",
    "requests",
    "opa_client",
    "reconciler.store",
    "reconciler.kinds",
)


def router_process(run: Path, data: Path) -> list[str]:
    return [sys.executable, "-m", "reconciler.router", "--run", str(run), "--data", str(data), "--fleet", "f"]


def test_sigterm_answers_what_is_under_way_and_leaves_nothing(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    polled: list[Reply] = []
    asked: list[Reply] = []
    hinted: list[object] = []
    fleet.link.wait_hint(0)
    threads = [
        threading.Thread(target=lambda: polled.append(writer.poll(wait_s=30))),
        threading.Thread(target=lambda: hinted.append(fleet.link.wait_hint(30))),
        threading.Thread(
            target=lambda: asked.append(writer.send("review.request", "request", to="reviewer", wait_s=30))
        ),
    ]
    for thread in threads:
        thread.start()
    assert len(reviewer.receive()) == 1
    until(lambda: fleet.state()["instances"]["writer-0"]["polls"] == 1)
    until(lambda: control_lines(fleet) == 1)
    pid = fleet.report().pid
    os.kill(pid, signal.SIGTERM)
    for thread in threads:
        thread.join(timeout=60)
    assert (polled[0].status, polled[0].body["messages"]) == (200, [])
    assert (asked[0].status, asked[0].body["status"]) == (202, "accepted")
    assert hinted == [[]]
    until(lambda: read_process(pid) is None)
    assert not list(fleet.run.rglob("*.sock"))
    assert not (fleet.run / "router.pid").exists()
    assert "Traceback" not in (fleet.data / "log" / "router.log").read_text()
    assert isinstance(fleet.link.report(), Absent)


def control_lines(fleet: Fleet) -> int:
    """Connections to the control socket, by what the system says."""
    with open("/proc/net/unix", encoding="ascii") as table:
        found = [line.split() for line in table]
    return sum(words[5] == "03" and words[-1] == str(fleet.run / "control.sock") for words in found)


def test_stop_over_the_control_socket_is_acknowledged(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    pid = fleet.report().pid
    assert call(fleet.run, "POST", "/stop") == {"ok": True}
    until(lambda: read_process(pid) is None)


def test_after_a_kill_a_new_epoch_serves_the_same_sockets_again(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    writer = fleet.register("writer-0")
    writer.send("task.started", to="hub", payload={"task": "t", "run": "r", "generation": 1})
    folder, before = writer.socket_path.parent.stat().st_ino, fleet.report()
    cursor = writer.poll().body["cursor"]
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: read_process(before.pid) is None)
    with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
        writer.poll()

    again = start_fleet()
    after = again.report()
    assert after.epoch != before.epoch
    assert after.instances == {}
    assert after.inbox_seq == 1
    writer = again.register("writer-0")
    assert writer.socket_path.parent.stat().st_ino == folder
    again.link.send({"instance": "writer-0", "message": {"type": "task.cancel", "payload": {}}})
    first = writer.poll(ack=cursor)
    assert len(first.body["messages"]) == 1
    writer.poll(ack=cursor)
    assert again.report().instances["writer-0"].mailbox_messages == 1, "an old cursor acknowledged a new message"


def test_a_task_event_repeated_after_a_restart_is_one_row(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    writer = fleet.register("writer-0")
    body = writer.envelope("task.started", to="hub", payload={"task": "t", "run": "r", "generation": 1})
    assert writer.call("POST", "/api/hub/messages", body).status == 202
    fleet.link.stop()
    again = start_fleet()
    writer = again.register("writer-0")
    assert writer.call("POST", "/api/hub/messages", body).status == 202
    assert len(again.link.read_inbox(0, 10)) == 1


def test_its_log_and_that_of_opa_cannot_grow_for_ever(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    logs = [fleet.data / "log" / name for name in ("router.log", "opa.log")]
    for log in logs:
        with log.open("ab") as file:
            file.write(b"x" * MAX_LOG_BYTES + b"\n")
    until(lambda: all(log.with_name(f"{log.name}.1").exists() and not log.stat().st_size for log in logs))
    assert b"started, fleet" in (fleet.data / "log" / "router.log.1").read_bytes()
    fleet.link.stop()
    assert b"stopped" in logs[0].read_bytes()
    assert b"\0" not in logs[0].read_bytes()


def test_a_second_router_does_not_get_the_same_data(start_fleet: Callable[[], Fleet], tmp_path: Path) -> None:
    fleet = start_fleet()
    other = tmp_path / "run"
    other.mkdir()
    second = subprocess.run(router_process(other, fleet.data), capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 1
    assert "another router writes" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_path_too_long_for_a_socket_is_said_to_be_so(tmp_path: Path) -> None:
    run = tmp_path / ("x" * 100)
    run.mkdir()
    ended = subprocess.run(router_process(run, tmp_path), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "a unix socket at most 107" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_log_of_a_newer_release_is_left_alone(run_folder: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "traffic.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    ended = subprocess.run(
        router_process(run_folder, tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert "newer release" in ended.stderr


def test_the_process_loads_nothing_heavy() -> None:
    code = f"""
import sys
import reconciler.router.__main__
import reconciler.router.process
print([m for m in sys.modules for f in {FORBIDDEN!r} if m == f or m.startswith(f + '.')])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert shown.stdout.strip() == "[]"
