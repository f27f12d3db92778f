"""The hub's side: starting, adopting, ending, and what it says of a router that is not well."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.errors import ForeignFleetError, RouterError
from reconciler.router.client import RouterLink
from reconciler.router.pidfile import PID_FILE, read_pid_file, read_process, write_pid_file
from reconciler.router.supervise import find_router, start_router, stop_router
from reconciler.router.version import code_version
from tests.router.fleet import FLEET, Fleet, until


def test_a_running_router_is_adopted_not_started_again(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    found = start_router(fleet.run, fleet.data, FLEET)
    assert found.pid == fleet.report().pid
    assert found == find_router(fleet.run, FLEET) == read_pid_file(fleet.run)


def test_the_router_has_a_session_of_its_own(start_fleet: Callable[[], Fleet]) -> None:
    pid = start_fleet().report().pid
    assert os.getsid(pid) == pid != os.getsid(0)


def test_the_router_does_not_inherit_secrets(start_fleet: Callable[[], Fleet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    environment = Path(f"/proc/{start_fleet().report().pid}/environ").read_bytes()
    assert b"PYTHONPATH" in environment
    assert b"sk-secret" not in environment


def test_another_fleets_router_is_not_ours(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    with pytest.raises(ForeignFleetError, match="belongs to fleet 00c0ffee"):
        start_router(fleet.run, fleet.data, "deadbeef")
    report = RouterLink("deadbeef", fleet.run, fleet.data).report()
    assert isinstance(report, Unavailable)
    assert "00c0ffee" in report.reason


def test_a_stale_pid_file_names_nobody(run_folder: Path) -> None:
    assert read_pid_file(run_folder) is None
    write_pid_file(run_folder, os.getpid())
    assert read_pid_file(run_folder) == read_process(os.getpid())
    (run_folder / PID_FILE).write_text(f"{os.getpid()} 1\n")
    assert read_pid_file(run_folder) is None
    (run_folder / PID_FILE).write_text("garbage")
    assert read_pid_file(run_folder) is None
    stop_router(run_folder)


def test_a_router_that_cannot_start_is_an_error_that_names_its_log(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "traffic.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(RouterError, match=r"router\.log"):
        start_router(run_folder, tmp_path, FLEET)
    assert "cannot start" in (tmp_path / "log" / "router.log").read_text()


def test_stopping_ends_it_and_twice_is_fine(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    pid = fleet.report().pid
    fleet.link.stop()
    assert read_process(pid) is None
    fleet.link.stop()


def test_a_router_that_hangs_is_killed(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    pid = fleet.report().pid
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    began = time.monotonic()
    stop_router(fleet.run, timeout_s=0.3)
    assert time.monotonic() - began < 5
    assert read_process(pid) is None
    assert isinstance(fleet.link.report(), Absent)
    with pytest.raises(RouterError):
        fleet.link.wait_hint(0)


def test_somebody_who_listens_and_says_nothing_is_unavailable(run_folder: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(run_folder / "control.sock"))
        listener.listen()

        def hang_up() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        report = RouterLink(FLEET, run_folder, tmp_path).report()
        thread.join()
    assert isinstance(report, Unavailable)
    assert "GET /report" in report.reason


def test_a_report_tells_version_and_digest(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    report = fleet.link.report()
    assert isinstance(report, Ok)
    assert report.value.code_version == code_version()
    assert report.value.config_digest == fleet.config["digest"]
    assert report.value.uptime_s > 0


def test_the_inbox_is_read_by_cursor(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    writer = fleet.register("writer-0")
    for n in range(5):
        writer.send("task.started", to="hub", payload={"task": f"t{n}", "run": "r", "generation": n})
    first = fleet.link.read_inbox(0, 2)
    assert [(m.seq, m.instance, m.agent, m.type, m.payload["task"]) for m in first] == [
        (1, "writer-0", "writer", "task.started", "t0"),
        (2, "writer-0", "writer", "task.started", "t1"),
    ]
    assert [m.seq for m in fleet.link.read_inbox(2, 100)] == [3, 4, 5]
    fleet.link.set_inbox_cursor(5)


def test_an_inbox_that_cannot_be_read_is_not_empty(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(RouterError, match=r"traffic\.db"):
        RouterLink(FLEET, run_folder, tmp_path).read_inbox(0, 10)
