"""The hub's side: starting, adopting, ending, and what it says of a router that is not well."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import reconciler
from reconciler import __version__
from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.errors import ForeignFleetError, RouterError
from reconciler.router.client import RouterLink
from reconciler.router.pidfile import PID_FILE, read_pid_file, write_pid_file
from reconciler.router.supervise import find_router, start_router, stop_router
from reconciler.router.version import code_version
from reconciler.runtime.detached import spawn_detached
from reconciler.runtime.pid import read_process
from tests.router.fleet import FLEET, Fleet, basic_config, until

PACKAGE = Path(reconciler.__file__).parent


def test_a_running_router_is_adopted_not_started_again(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    found = start_router(fleet.run, fleet.data, FLEET)
    assert found.pid == fleet.report().pid
    assert found == find_router(fleet.run, FLEET) == read_pid_file(fleet.run)


def test_a_router_of_other_code_is_told_and_another_takes_its_place(run_folder: Path, tmp_path: Path) -> None:
    old = start_other_code(run_folder, tmp_path)
    fleet = Fleet(run=run_folder, data=tmp_path, link=RouterLink(FLEET, run_folder, tmp_path), config=basic_config())
    try:
        fleet.configure()
        writer = fleet.register("writer-0")
        assert writer.send("task.started", to="hub", payload={"task": "t", "run": "r", "generation": 1}).status == 202
        before = fleet.report()
        assert before.pid == old
        assert before.code_version.startswith("0.0.9+")
        assert before.next_version == code_version()
        fleet.link.start()
        after = fleet.report()
        assert read_process(old) is None
        assert (after.code_version, after.next_version) == (code_version(), "")
        assert after.epoch != before.epoch
        assert [m.type for m in fleet.link.read_inbox(0, 10)] == ["task.started"]
    finally:
        fleet.link.stop()


def test_one_whose_report_cannot_be_read_is_not_empty_and_another_takes_its_place(
    run_folder: Path, tmp_path: Path
) -> None:
    old = start_other_code(run_folder, tmp_path, ("router/switchboard.py", '"inbox_seq": ', '"inbox": '))
    link = RouterLink(FLEET, run_folder, tmp_path)
    try:
        report = link.report()
        assert isinstance(report, Unavailable)
        assert report.reason.endswith("its report lacks 'inbox_seq', its code is version 0.0.9+" + report.reason[-12:])
        link.start()
        assert read_process(old) is None
        assert isinstance(link.report(), Ok)
    finally:
        link.stop()


def start_other_code(run: Path, data: Path, *edits: tuple[str, str, str]) -> int:
    """The pid of a router of an earlier release: a copy of this one with another number, and `(file, old, new)`."""
    package = data / "old" / "reconciler"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in (("__init__.py", __version__, "0.0.9"), *edits):
        text = (package / name).read_text()
        assert old in text
        (package / name).write_text(text.replace(old, new))
    (data / "log").mkdir()
    argv = [sys.executable, "-P", "-m", "reconciler.router"]
    argv += ["--run", str(run), "--data", str(data), "--fleet", FLEET]
    pid = spawn_detached(sys.executable, argv, {"PYTHONPATH": str(package.parent)}, str(data / "log" / "router.log"))
    until(lambda: read_pid_file(run) is not None)
    return pid


def test_files_that_changed_under_a_running_hub_are_no_reason_to_restart(tmp_path: Path) -> None:
    package = tmp_path / "reconciler"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import pathlib
from reconciler.router.version import code_version, find_newer
own = code_version()
before = find_newer("0.0.9+other"), find_newer(own)
changed = pathlib.Path("reconciler/policy/reads.py")
text = changed.read_text()
changed.unlink()
changed.symlink_to("nowhere.py")
assert find_newer("0.0.9+other") == ""
changed.unlink()
changed.write_text(text + "# changed")
print(before == (own, ""), find_newer("0.0.9+other") == "", find_newer(own) == "", code_version() != own)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, timeout=120, check=True
    )
    assert shown.stdout.split() == ["True"] * 4


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
    stop_router(fleet.run, timeout_s=0.3)
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
